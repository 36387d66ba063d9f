"""Commands for the counters: ``advance`` and ``show``."""

from __future__ import annotations

import argparse
import json
import sys
import time

from uniqueid.commands import arguments, table
from uniqueid.commands.configured import open_configured, open_store
from uniqueid.errors import MAX_ID, ConfigError, TooManyModes, UniqueIDError
from uniqueid.model import CounterUpdate


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the parser."""
    command = commands.add_parser(
        "advance",
        help="move counters on, never back: after a restore, above every ID that was allocated",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--mode", metavar="MODE", type=arguments.mode, help="the counter to move")
    which.add_argument("--all", action="store_true", help="every counter there is; with --by")
    how = command.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--to",
        metavar="ID",
        type=arguments.whole_number(1, MAX_ID + 1),
        help="the next ID is to be this or higher; makes the counter where there is none",
    )
    how.add_argument(
        "--by", metavar="COUNT", type=arguments.whole_number(1, MAX_ID), help="skip this many IDs"
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_advance)

    command = commands.add_parser("show", help="list the counters")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_show)


def _advance(options: argparse.Namespace) -> int:
    if options.all and options.by is None:
        raise ConfigError(
            "--all",
            None,
            "command line",
            "--all goes with --by: no one ID is right for all counters",
        )
    # Only --to creates a counter.
    configuration, store = open_configured(options, max_modes=0)
    deadline = time.monotonic() + configuration.settings.request_timeout
    count = options.by or 0
    modes = store.counters() if options.all else [options.mode]
    lowest = {} if options.to is None else {options.mode: options.to}
    status = 0
    outcomes = store.advance(dict.fromkeys(modes, count), lowest, deadline=deadline)
    changes = []
    for mode, outcome in outcomes.items():
        if isinstance(outcome, CounterUpdate) and options.json:
            old, new = outcome.database_next_id, outcome.next_id
            changes.append({"mode": mode, "from": old, "to": new})
        elif isinstance(outcome, CounterUpdate):
            old, new = outcome.database_next_id, outcome.next_id
            unchanged = "" if new > old else "  (not changed: it is there already)"
            print(f"{mode}: {old} -> {new}{unchanged}")
        elif isinstance(outcome, TooManyModes) and options.to is not None:
            if not options.json:
                print(f"{mode}: there is no counter yet, and its first ID will be 1")
        elif isinstance(outcome, TooManyModes):
            raise UniqueIDError(
                f"--mode {mode!r}: there is no such counter; 'show' lists those there are, and --to"
                " makes one"
            )
        else:
            print(f"pacifica-uniqueid-cmd: not changed: {outcome}", file=sys.stderr)
            status = 1
    if options.json:
        print(json.dumps({"counters": changes}, indent=2))
    return status


def _show(options: argparse.Namespace) -> int:
    store, _deadline = open_store(options)
    counters = sorted(store.counters().items())
    if options.json:
        listed = [{"mode": mode, "next_id": next_id} for mode, next_id in counters]
        print(json.dumps({"counters": listed}, indent=2))
        return 0
    columns = [table.mode_column(mode for mode, _next_id in counters), table.id_column("NEXT ID")]
    table.write_table(columns, counters, sys.stdout)
    return 0
