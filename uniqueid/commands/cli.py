"""The commands ``pacifica-uniqueid-cmd`` and ``pacifica-uniqueid``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NoReturn

from uniqueid import __version__, config, logs, service
from uniqueid.commands import fence as fence_command
from uniqueid.commands import journal as journal_commands
from uniqueid.database import schema
from uniqueid.database.durability import DurabilityProblem
from uniqueid.database.store import Store
from uniqueid.errors import MAX_ID, ConfigError, TooManyModes, UniqueIDError
from uniqueid.model import MAX_MODE_LENGTH, CounterUpdate, is_mode

log = logging.getLogger(__name__)

_UNUSABLE = 2
"""The exit status for a command line or a setting that cannot be used, as argparse's own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``pacifica-uniqueid-cmd``."""
    return _guarded(_parser(), argv)


def serve(argv: Sequence[str] | None = None) -> int:
    """Run ``pacifica-uniqueid``."""
    return _guarded(_serve_parser(), argv)


def _guarded(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except ConfigError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return _UNUSABLE
    except UniqueIDError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacifica-uniqueid-cmd", description="Look after the UniqueID database."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("-c", "--config", metavar="CONFIG", help="the configuration file to read")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "dbsync", help="create the tables, or bring old ones up to date; counters keep their values"
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--no-create",
        action="store_true",
        help="refuse a database without tables: new tables start every mode at 1",
    )
    which.add_argument(
        "--create-until",
        metavar="TIME",
        type=_time,
        help="refuse it from this time on (UTC, as 2026-01-31T12:00:00Z)",
    )
    which.add_argument(
        "--to",
        metavar="VERSION",
        choices=["{}.{}".format(*schema.OLD)],
        help="{}.{}: record the old service's version again, for its own dbsync; tables and"
        " rows stay".format(*schema.OLD),
    )
    command.set_defaults(run=_dbsync)

    command = commands.add_parser("dbchk", help="exit 0 if the service can run on the tables")
    command.add_argument(
        "--equal",
        action="store_true",
        help="the minor version must be this release's as well",
    )
    command.set_defaults(run=_dbchk)

    command = commands.add_parser(
        "check", help="exit 0 if the service could start with these settings and their database"
    )
    command.set_defaults(run=_check)

    command = commands.add_parser(
        "advance",
        help="move counters on, never back: after a restore, above every ID that was handed out",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--mode", metavar="MODE", type=_mode, help="the counter to move")
    which.add_argument("--all", action="store_true", help="every counter there is; with --by")
    how = command.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--to",
        metavar="ID",
        type=_whole(MAX_ID + 1),
        help="the next ID is to be this or higher; makes the counter where there is none",
    )
    how.add_argument("--by", metavar="COUNT", type=_whole(MAX_ID), help="skip so many IDs")
    command.set_defaults(run=_advance)

    command = commands.add_parser("show", help="list the counters")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_show)

    command = commands.add_parser(
        "config", help="print every setting that counts and where it came from"
    )
    command.set_defaults(run=_config)

    fence_command.add_command(commands, _open_configured)
    journal_commands.add_commands(commands, _open_store)
    return parser


def _load(arguments: argparse.Namespace) -> config.Configuration:
    configuration = config.load(arguments.config)
    logs.set_up(configuration.settings.log_level, configuration.settings.log_format)
    return configuration


def _dbsync(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    settings = configuration.settings
    until = arguments.create_until
    create = until is None or datetime.now(UTC) < until
    create &= arguments.to is None and not arguments.no_create
    store = service.make_store(configuration, create=create)
    if not create and arguments.to is None and store.dialect.is_missing(store.url):
        raise schema.no_tables(store)
    store.connect(settings.connect_attempts, settings.connect_wait)
    if arguments.to is not None:
        schema.step_back(store)
        print("the schema has version {}.{}".format(*schema.OLD))
        return 0
    steps = schema.sync(store, create=create)
    if schema.CREATE in steps:
        log.warning(logs.Event("new counters created, every mode starts at 1", database=store.url))
    for step in steps:
        print(step)
    print("the schema has version {}.{}".format(*schema.CURRENT))
    return 0


def _dbchk(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    settings = configuration.settings
    durability = service.make_durability(configuration, warn=_print_problem)
    store = service.make_store(configuration, durability=durability)
    store.connect(settings.connect_attempts, settings.connect_wait)
    schema.check(store, equal=arguments.equal)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    configuration = config.load(arguments.config)
    service.check_fence(configuration)
    service.build(configuration, connect_attempts=1)
    return 0


def _print_problem(problem: DurabilityProblem) -> None:
    print(f"pacifica-uniqueid-cmd: warning: {problem}", file=sys.stderr)


def _whole(highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= 19
        if not digits or not 1 <= int(text) <= highest:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a whole number from 1 to {highest}, in decimal digits"
            )
        return int(text)

    return read


def _time(text: str) -> datetime:
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:
        time_ = None
    if time_ is None or time_.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a time with its offset, as 2026-01-31T12:00:00Z"
        )
    return time_


def _mode(text: str) -> str:
    if not is_mode(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} must have 1 to {MAX_MODE_LENGTH} characters and no control characters"
        )
    return text


def _open_store(arguments: argparse.Namespace) -> tuple[Store, float]:
    """The store, with a schema that fits, and the deadline of what is done with it."""
    configuration, store = _open_configured(arguments)
    return store, time.monotonic() + configuration.settings.request_timeout


def _open_configured(
    arguments: argparse.Namespace, max_modes: int | None = None
) -> tuple[config.Configuration, Store]:
    configuration = _load(arguments)
    settings = configuration.settings
    if settings.log_level == "info":
        # That the database was reached is no news to who reads its counters.
        logging.getLogger("uniqueid").setLevel(logging.WARNING)
    store = service.make_store(configuration, max_modes=max_modes)
    store.connect(settings.connect_attempts, settings.connect_wait)
    schema.require(store)
    return configuration, store


def _advance(arguments: argparse.Namespace) -> int:
    if arguments.all and arguments.by is None:
        raise ConfigError(
            "--all",
            None,
            "command line",
            "--all goes with --by: no one ID is right for all counters",
        )
    # Only --to creates a counter.
    configuration, store = _open_configured(arguments, max_modes=0)
    deadline = time.monotonic() + configuration.settings.request_timeout
    count = arguments.by or 0
    modes = store.counters() if arguments.all else [arguments.mode]
    floors = {} if arguments.to is None else {arguments.mode: arguments.to}
    status = 0
    outcomes = store.advance(dict.fromkeys(modes, count), floors, deadline=deadline)
    for mode, outcome in outcomes.items():
        if isinstance(outcome, CounterUpdate):
            old, new = outcome.database_next_id, outcome.next_id
            unchanged = "" if new > old else "  (not changed: it is there already)"
            print(f"{mode}: {old} -> {new}{unchanged}")
        elif isinstance(outcome, TooManyModes) and arguments.to is not None:
            print(f"{mode}: there is no counter yet, and its first ID will be 1")
        elif isinstance(outcome, TooManyModes):
            raise UniqueIDError(
                f"--mode {mode!r}: there is no such counter; 'show' lists those there are, and --to"
                " makes one"
            )
        else:
            print(f"pacifica-uniqueid-cmd: not changed: {outcome}", file=sys.stderr)
            status = 1
    return status


def _show(arguments: argparse.Namespace) -> int:
    store, _deadline = _open_store(arguments)
    counters = sorted(store.counters().items())
    if arguments.json:
        listed = [{"mode": mode, "next_id": next_id} for mode, next_id in counters]
        print(json.dumps({"counters": listed}, indent=2))
        return 0
    # Old databases may hold modes which would upset a terminal.
    shown = [(mode if mode.isprintable() else repr(mode), next_id) for mode, next_id in counters]
    width = max([4, *(len(mode) for mode, _next_id in shown)])
    print(f"{'MODE':{width}}  {'NEXT ID':>19}")
    for mode, next_id in shown:
        print(f"{mode:{width}}  {next_id:>19}")
    return 0


def _config(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    for option, value, source in configuration.describe():
        print(f"{option} = {value}  ({source})")
    for warning in configuration.warnings:
        print(warning, file=sys.stderr)
    return 0


# -- pacifica-uniqueid ------------------------------------------------------------------------


class _OneLine(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_UNUSABLE, f"{self.prog}: {message}\n")


def _serve_parser() -> argparse.ArgumentParser:
    parser = _OneLine(
        prog="pacifica-uniqueid",
        description="Run the UniqueID server.",
        epilog="It runs until SIGTERM or SIGINT, and then answers what it has accepted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "-c",
        "--config",
        "--cpconfig",
        metavar="CONFIG",
        help="the CherryPy file (default: UNIQUEID_CPCONFIG, then"
        " ~/.pacifica-uniqueid/cpconfig.ini); UNIQUEID_CONFIG names the service's file",
    )
    parser.add_argument(
        "-p",
        "--port",
        metavar="PORT",
        type=_port,
        help="port to listen on (default: the CherryPy file's, then 8051)",
    )
    parser.add_argument(
        "-a",
        "--address",
        metavar="ADDRESS",
        help="address to listen on (default: the CherryPy file's, then localhost)",
    )
    parser.set_defaults(run=_serve)
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0 to 65535")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    # Imported for this command alone.
    from uniqueid.server import builtin

    if arguments.address == "":
        raise ConfigError("-a/--address", "", "command line", "must name an address, as localhost")
    return builtin.run(arguments.config, arguments.address, arguments.port)
