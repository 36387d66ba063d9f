"""`pacifica-uniqueid-cmd fence`: the fence beside the database, and what repairs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from uniqueid import service
from uniqueid.commands import table
from uniqueid.config import Configuration
from uniqueid.database.store import Store
from uniqueid.errors import ConfigError, FenceDamaged, UniqueIDError
from uniqueid.fence.file import CounterBound, FenceLock, read, read_valid_entries, write

_PATIENCE = 5.0
"""Seconds in which a service that waits for a repair gives way: it looks once a second."""

Open = Callable[[argparse.Namespace], tuple[Configuration, Store]]


def add_command(commands: Any, open_store: Open) -> None:
    """Add it to the parser.

    :param open_store: the settings, and the store with a schema that fits.
    """
    command = commands.add_parser(
        "fence", help="show the fence file beside the counters, or write it again from them"
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--adopt",
        action="store_true",
        help="the counters are right: write the fence from them, and from what can still be read"
        " of it where that is higher",
    )
    how.add_argument(
        "--reset",
        action="store_true",
        help="write it from the counters alone, where the fence is known to be too high; IDs that"
        " were allocated above them can come again",
    )
    how.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=lambda arguments: _run(arguments, open_store))


def _run(arguments: argparse.Namespace, open_store: Open) -> int:
    configuration, store = open_store(arguments)
    settings = configuration.settings
    if service.make_fence(configuration, store) is None:
        source = configuration.sources["fence_path"]
        raise ConfigError("[fence] path", "", source, "must name a file: without one, no fence")
    path = os.path.abspath(settings.fence_path)
    try:
        if arguments.adopt or arguments.reset:
            return _make(path, store, reset=arguments.reset)
        return _show(path, store, as_json=arguments.json)
    except OSError as error:
        name = error.filename or path
        raise UniqueIDError(f"[fence] path: {name}: {error.strerror or error}") from error


def _make(path: str, store: Store, *, reset: bool) -> int:
    lock = FenceLock(path)
    end = time.monotonic() + _PATIENCE
    while not lock.take():
        if time.monotonic() >= end:
            raise UniqueIDError(
                f"a running service uses {path}, and keeps it in order itself; to change it, stop"
                " the service first"
            )
        time.sleep(0.05)
    try:
        before = read_valid_entries(path) if reset else _readable(path)
        counters = _next_ids(store, before)
        after = {name: CounterBound(at, at) for name, at in store.counters().items() if at > 1}
        if not reset:
            after |= {
                name: bound for name, bound in before.items() if bound.limit > counters.get(name, 1)
            }
        write(path, after)
    finally:
        lock.release()
    for name, bound in sorted(after.items() if not reset else before.items()):
        at = counters.get(name, 1)
        if bound.limit > at:
            what = "given up" if reset else "kept"
            print(f"{table.printable(name)}: bound {bound.limit} {what}, the database has {at}")
    print(f"{path}: {len(after)} counters")
    return 0


def _next_ids(store: Store, bounds: Mapping[str, CounterBound]) -> dict[str, int]:
    """The next ID of each counter, and of each name in the fence that is equal to a counter's."""
    counters = store.counters()
    return counters | store.find([name for name in bounds if name not in counters])


def _readable(path: str) -> dict[str, CounterBound]:
    """What counts of the present file.

    :raises FenceDamaged: for the file of a newer release, which is whole and only not understood.
    """
    try:
        return read(path)
    except FileNotFoundError:
        return {}
    except FenceDamaged as error:
        if error.newer:
            raise UniqueIDError(
                f"{error.cause}: run the command of that release, or --reset"
            ) from error
        return read_valid_entries(path)


def _show(path: str, store: Store, *, as_json: bool) -> int:
    wrong = None
    bounds: dict[str, CounterBound] = {}
    try:
        bounds = read(path)
    except FileNotFoundError:
        wrong = "there is no such file"
    except FenceDamaged as error:
        wrong = error.cause
        bounds = read_valid_entries(path)
    counters = _next_ids(store, bounds)
    rows = [
        {
            "mode": name,
            "exact": bounds[name].committed if name in bounds else None,
            "bound": bounds[name].limit if name in bounds else None,
            "next_id": counters.get(name),
            "state": _state(bounds.get(name), counters.get(name, 1)),
        }
        for name in sorted(bounds.keys() | counters.keys())
    ]
    if as_json:
        document = {"path": path, "state": wrong or "whole", "counters": rows}
        print(json.dumps(document, indent=2))
    else:
        print(f"{path}: {wrong or 'whole'}")
        ids = ("exact", "bound", "next_id")
        columns = [
            table.mode_column(str(row["mode"]) for row in rows),
            *(table.id_column(name.upper().replace("_", " ")) for name in ids),
            table.Column("STATE"),
        ]
        cells = ([row[name] for name in ("mode", *ids, "state")] for row in rows)
        table.write_table(columns, cells, sys.stdout)
    if wrong is not None:
        print(f"pacifica-uniqueid-cmd: {FenceDamaged(wrong)}", file=sys.stderr)
        return 1
    return 0


def _state(bound: CounterBound | None, at: int) -> str:
    if bound is None:
        return "not in the fence yet"
    if at >= bound.limit:
        return "ok"
    if at >= bound.committed:
        return "within the window"
    return "regressed"
