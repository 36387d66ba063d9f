"""The commands that read the journal: ``whois`` and ``journal``."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from uniqueid.commands import arguments, table
from uniqueid.database.errors import classify, explain
from uniqueid.database.journal import Record
from uniqueid.database.store import Store
from uniqueid.errors import MAX_ID, ConfigError, DatabaseUnavailable, UniqueIDError

OpenStore = Callable[[argparse.Namespace], tuple[Store, float]]

COLUMNS = ("mode", "first", "last", "time", "token", "client", "request_id", "key", "replays")
"""Of a table, of CSV and of a JSON object, in this order."""
_WIDTHS = {"first": 19, "last": 19, "time": 27, "token": 12, "client": 24, "request_id": 32}


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], open_store: OpenStore
) -> None:
    """Put both commands beside the others.

    :param open_store: gives a store with a schema that fits, from the parsed options.
    """
    command = commands.add_parser("whois", help="tell who got an ID, and when, from the journal")
    command.add_argument(
        "--mode", metavar="MODE", type=arguments.mode, required=True, help="its mode"
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.add_argument("id", metavar="ID", type=arguments.whole_number(1, MAX_ID), help="the ID")
    command.set_defaults(run=lambda options: _whois(options, open_store))

    command = commands.add_parser("journal", help="list or export what the journal has recorded")
    command.add_argument(
        "--mode",
        metavar="MODE",
        type=arguments.mode,
        help="of this mode alone, by ID; all modes, as they were recorded, without it",
    )
    command.add_argument(
        "--from",
        dest="since",
        metavar="TIME",
        type=arguments.microseconds,
        help="recorded at this time or later: ISO 8601, as 2026-01-31 or 2026-01-31T12:00:00Z; in"
        " UTC where it does not say",
    )
    command.add_argument(
        "--to",
        dest="until",
        metavar="TIME",
        type=arguments.microseconds,
        help="recorded before this time",
    )
    command.add_argument(
        "--first",
        metavar="ID",
        type=arguments.whole_number(1, MAX_ID),
        help="with IDs from this one on",
    )
    command.add_argument(
        "--last",
        metavar="ID",
        type=arguments.whole_number(1, MAX_ID),
        help="with IDs up to this one",
    )
    command.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        default="table",
        help="a table for people, CSV with a head (RFC 4180), or one JSON object a line (default:"
        " %(default)s)",
    )
    command.add_argument(
        "--output", metavar="FILE", help="write there; a file that exists is written over"
    )
    command.set_defaults(run=lambda options: _journal(options, open_store))


def shown_time(microseconds: int) -> str:
    """A time of the journal in ISO 8601, in UTC."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:06}Z"


def _document(record: Record) -> dict[str, Any]:
    return {
        "mode": record.mode,
        "first": record.first,
        "last": record.last,
        "time": shown_time(record.time),
        "token": record.caller,
        "client": record.client,
        "request_id": record.request_id,
        "key": record.key,
        "replays": record.replays,
    }


@contextmanager
def _reading() -> Iterator[None]:
    """Errors of the database in one line."""
    try:
        yield
    except UniqueIDError:
        raise
    except Exception as error:
        if classify(error) is None:
            raise
        raise DatabaseUnavailable(explain(error)) from error


def _whois(options: argparse.Namespace, open_store: OpenStore) -> int:
    store, _deadline = open_store(options)
    store.need_journal()
    with _reading():
        record = store.journal.who_has(options.mode, options.id)
    if record is None:
        raise UniqueIDError(
            f"nothing is recorded of ID {options.id} of mode {options.mode!r}: it was not"
            " allocated, or while journal was off, or its record's time is over"
        )
    document = _document(record)
    if options.json:
        print(json.dumps(document, ensure_ascii=False))
        return 0
    for name, value in document.items():
        print(f"{name}: {table.printable('' if value is None else str(value))}")
    return 0


def _journal(options: argparse.Namespace, open_store: OpenStore) -> int:
    bounds = {
        "mode": options.mode,
        "since": options.since,
        "until": options.until,
        "low": options.first,
        "high": options.last,
    }
    if options.mode is None and (options.first or options.last):
        raise ConfigError(
            "--first and --last",
            None,
            "command line",
            "go with --mode: the same ID can be one of several modes",
        )
    store, _deadline = open_store(options)
    store.need_journal()
    with _reading(), _output(options.output) as out:
        write = {"table": _write_table, "csv": _write_csv, "jsonl": _write_jsonl}[options.format]
        # To people who see the rows go by, a bar would be in the way.
        watched = sys.stderr.isatty() and (options.output is not None or not out.isatty())
        rows = store.journal.rows(**bounds)
        try:
            write(_with_bar(rows, store.journal.count(**bounds)) if watched else rows, out)
            out.flush()
        except BrokenPipeError:
            # `journal | head`: the reader has gone. Python would report it once more at its end
            # (its documentation, "Note on SIGPIPE").
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return 0


def _with_bar(rows: Iterable[Record], total: int) -> Iterable[Record]:
    from tqdm import tqdm

    return tqdm(rows, total=total, unit=" rows", unit_scale=True, file=sys.stderr)


@contextmanager
def _output(file: str | None) -> Iterator[TextIO]:
    if file is None:
        yield sys.stdout
        return
    try:
        # No translation of line ends: CSV has its own.
        out = open(file, "w", encoding="utf-8", newline="")  # noqa: SIM115
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError("--output", file, "command line", reason) from None
    with out:
        try:
            yield out
            out.flush()
        except OSError as error:
            raise UniqueIDError(f"--output {file!r}: {error.strerror or error}") from None


def _write_table(rows: Iterable[Record], out: TextIO) -> None:
    names = [name for name in COLUMNS if name not in ("key", "replays")]
    # The mode last: it may be of any length.
    names = [*names[1:], names[0]]
    columns = [table.Column(name.upper().replace("_", " "), _WIDTHS.get(name, 0)) for name in names]
    documents = map(_document, rows)
    table.write_table(columns, ([document[name] for name in names] for document in documents), out)


def _write_csv(rows: Iterable[Record], out: TextIO) -> None:
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for record in rows:
        writer.writerow({name: _cell(value) for name, value in _document(record).items()})


def _cell(value: object) -> object:
    """A cell that a spreadsheet does not take for a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def _write_jsonl(rows: Iterable[Record], out: TextIO) -> None:
    for record in rows:
        out.write(json.dumps(_document(record), ensure_ascii=False) + "\n")
