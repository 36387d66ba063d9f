"""Commands for the database: ``dbsync``, ``dbchk`` and ``check``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from uniqueid import logs, service
from uniqueid.commands import arguments
from uniqueid.commands.configured import load
from uniqueid.database import schema
from uniqueid.database.durability import DurabilityProblem

log = logging.getLogger(__name__)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the parser."""
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
        type=arguments.time_with_offset,
        help="refuse it from this time on (UTC, as 2026-01-31T12:00:00Z)",
    )
    which.add_argument(
        "--to",
        metavar="VERSION",
        choices=["{}.{}".format(*schema.OLD)],
        help="{}.{}: record the legacy service's version again, for its own dbsync; tables and"
        " rows stay".format(*schema.OLD),
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_dbsync)

    command = commands.add_parser("dbchk", help="exit 0 if the service can run on the tables")
    command.add_argument(
        "--equal",
        action="store_true",
        help="the minor version must be this release's as well",
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_dbchk)

    command = commands.add_parser(
        "check", help="exit 0 if the service could start with these settings and their database"
    )
    command.set_defaults(run=_check)


def _dbsync(options: argparse.Namespace) -> int:
    configuration = load(options)
    settings = configuration.settings
    until = options.create_until
    create = until is None or datetime.now(UTC) < until
    create &= options.to is None and not options.no_create
    store = service.make_store(configuration, create=create)
    if not create and options.to is None and store.dialect.is_missing(store.url):
        raise schema.no_tables(store)
    store.connect(settings.connect_attempts, settings.connect_wait)
    if options.to is not None:
        schema.step_back(store)
        _print_schema(options, [], schema.OLD)
        return 0
    steps = schema.sync(store, create=create)
    if schema.CREATE in steps:
        log.warning(logs.Event("new counters created, every mode starts at 1", database=store.url))
    _print_schema(options, steps, schema.CURRENT)
    return 0


def _print_schema(
    options: argparse.Namespace, steps: Sequence[str], version: tuple[int, int]
) -> None:
    text = "{}.{}".format(*version)
    if options.json:
        print(json.dumps({"steps": list(steps), "version": text}, indent=2))
    else:
        print(*steps, f"the schema has version {text}", sep="\n")


def _dbchk(options: argparse.Namespace) -> int:
    configuration = load(options)
    settings = configuration.settings
    problems: list[str] = []

    def warn(problem: DurabilityProblem) -> None:
        problems.append(str(problem))
        print(f"pacifica-uniqueid-cmd: warning: {problem}", file=sys.stderr)

    durability = service.make_durability(configuration, warn=warn)
    store = service.make_store(configuration, durability=durability)
    store.connect(settings.connect_attempts, settings.connect_wait)
    schema.check(store, equal=options.equal)
    store.ping()
    version = "{}.{}".format(*(schema.require(store).version or (0, 0)))
    found = {"database": str(store.url), "version": version, "warnings": problems}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        count = f", {len(problems)} warnings" if problems else ""
        print(f"the tables in {store.url} have version {version} and can be used{count}")
    return 0


def _check(options: argparse.Namespace) -> int:
    configuration = load(options)
    service.check_fence(configuration)
    service.build(configuration, connect_attempts=1)
    return 0
