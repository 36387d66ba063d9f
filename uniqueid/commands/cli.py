"""The commands ``pacifica-uniqueid-cmd`` and ``pacifica-uniqueid``."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import shtab

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


class _Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, and accepts no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(_UNUSABLE, f"{self.prog}: {message}\n")


def _guarded(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot print the name of a mode gets it escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        status = run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has what it wanted. The interpreter flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ConfigError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return _UNUSABLE
    except UniqueIDError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="pacifica-uniqueid-cmd",
        description="Look after the UniqueID database.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shtab.add_argument_to(parser, "--print-completion", help="print a completion script and exit")
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

    command = commands.add_parser(
        "init", help="write config.cfg and uwsgi.ini into a directory, and create the tables"
    )
    command.add_argument(
        "directory", metavar="DIR", nargs="?", default=".", help="made if absent (default: here)"
    )
    command.set_defaults(run=_init)

    command = commands.add_parser(
        "token", help="make a random token, and its line for auth_tokens_file"
    )
    command.add_argument("name", metavar="NAME", type=_name, help="whose token it is")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_token)

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
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_advance)

    command = commands.add_parser("show", help="list the counters")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_show)

    command = commands.add_parser(
        "config", help="print every setting that counts and where it came from"
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_config)

    fence_command.add_command(commands, _open_configured)
    journal_commands.add_commands(commands, _open_store)
    for name, command in commands.choices.items():
        # Before or after the command.
        command.add_argument(
            "-c", "--config", metavar="CONFIG", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        if name not in ("init", "token", "config"):
            patient = name in ("dbsync", "dbchk")
            command.add_argument(
                "--timeout",
                metavar="SECONDS",
                type=_seconds,
                default=None if patient else 5.0,
                help="for the database to answer (default: "
                + ("connect_attempts times connect_wait)" if patient else "%(default)g)"),
            )
    return parser


_EXAMPLES = """examples:
  pacifica-uniqueid-cmd init /srv/uniqueid
  pacifica-uniqueid-cmd dbchk --equal -c config.cfg
  pacifica-uniqueid-cmd advance --all --by 1000000
  pacifica-uniqueid-cmd token ingest
"""


def _load(arguments: argparse.Namespace) -> config.Configuration:
    configuration = config.load(arguments.config)
    settings = configuration.settings
    logs.set_up(settings.log_level, settings.log_format)
    timeout: float | None = getattr(arguments, "timeout", None)
    if timeout is not None:
        settings = replace(
            settings,
            connect_attempts=max(1, int(timeout // 5)),
            connect_wait=5.0,
            request_timeout=min(timeout, settings.request_timeout),
        )
    return replace(configuration, settings=settings)


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
        _print_schema(arguments, [], schema.OLD)
        return 0
    steps = schema.sync(store, create=create)
    if schema.CREATE in steps:
        log.warning(logs.Event("new counters created, every mode starts at 1", database=store.url))
    _print_schema(arguments, steps, schema.CURRENT)
    return 0


def _print_schema(
    arguments: argparse.Namespace, steps: Sequence[str], version: tuple[int, int]
) -> None:
    text = "{}.{}".format(*version)
    if arguments.json:
        print(json.dumps({"steps": list(steps), "version": text}, indent=2))
    else:
        print(*steps, f"the schema has version {text}", sep="\n")


def _init(arguments: argparse.Namespace) -> int:
    place = Path(arguments.directory)
    try:
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        # Without tables next to an existing file, the database is more likely a lost one.
        existed = Path(config.LOCAL_FILE).exists()
        for name in (config.LOCAL_FILE, "uwsgi.ini"):
            if Path(name).exists():
                print(f"{place / name} exists and is not changed")
            else:
                Path(name).write_text(resources.files("uniqueid").joinpath(name).read_text())
                print(f"{place / name} written")
    except OSError as error:
        raise ConfigError("DIR", str(place), "command line", str(error.strerror)) from None
    options = ["--no-create"] if existed else []
    status = main(["-c", config.LOCAL_FILE, "dbsync", *options])
    if status == 0:
        where = "" if arguments.directory == "." else f"cd {shlex.quote(str(place))} && "
        print(f"next: {where}uwsgi --ini uwsgi.ini")
    return status


def _token(arguments: argparse.Namespace) -> int:
    token = secrets.token_urlsafe(32)
    line = f"{arguments.name} {hashlib.sha256(token.encode()).hexdigest()}"
    if arguments.json:
        print(json.dumps({"token": token, "line": line}, indent=2))
    else:
        print(f"token, for the client: {token}\nline, for auth_tokens_file: {line}")
    return 0


def _dbchk(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    settings = configuration.settings
    problems: list[str] = []

    def warn(problem: DurabilityProblem) -> None:
        problems.append(str(problem))
        print(f"pacifica-uniqueid-cmd: warning: {problem}", file=sys.stderr)

    durability = service.make_durability(configuration, warn=warn)
    store = service.make_store(configuration, durability=durability)
    store.connect(settings.connect_attempts, settings.connect_wait)
    schema.check(store, equal=arguments.equal)
    version = "{}.{}".format(*(schema.require(store).version or (0, 0)))
    found = {"database": str(store.url), "version": version, "warnings": problems}
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        count = f", {len(problems)} warnings" if problems else ""
        print(f"the tables in {store.url} have version {version} and can be used{count}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    service.check_fence(configuration)
    service.build(configuration, connect_attempts=1)
    return 0


def _seconds(text: str) -> float:
    if not (re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text, re.ASCII) and float(text) >= 0.1):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds from 0.1 to 99999")
    return float(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[!-\"$-~][!-~]{0,127}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} must have 1 to 128 ASCII characters, no blanks")
    return text


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
    changes = []
    for mode, outcome in outcomes.items():
        if isinstance(outcome, CounterUpdate) and arguments.json:
            old, new = outcome.database_next_id, outcome.next_id
            changes.append({"mode": mode, "from": old, "to": new})
        elif isinstance(outcome, CounterUpdate):
            old, new = outcome.database_next_id, outcome.next_id
            unchanged = "" if new > old else "  (not changed: it is there already)"
            print(f"{mode}: {old} -> {new}{unchanged}")
        elif isinstance(outcome, TooManyModes) and arguments.to is not None:
            if not arguments.json:
                print(f"{mode}: there is no counter yet, and its first ID will be 1")
        elif isinstance(outcome, TooManyModes):
            raise UniqueIDError(
                f"--mode {mode!r}: there is no such counter; 'show' lists those there are, and --to"
                " makes one"
            )
        else:
            print(f"pacifica-uniqueid-cmd: not changed: {outcome}", file=sys.stderr)
            status = 1
    if arguments.json:
        print(json.dumps({"counters": changes}, indent=2))
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
    if arguments.json:
        names = ("option", "value", "source")
        listed = [dict(zip(names, row, strict=True)) for row in configuration.describe()]
        print(json.dumps({"settings": listed}, indent=2))
        return 0
    for option, value, source in configuration.describe():
        print(f"{option} = {value}  ({source})")
    for warning in configuration.warnings:
        print(warning, file=sys.stderr)
    return 0


# -- pacifica-uniqueid ------------------------------------------------------------------------


def _serve_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pacifica-uniqueid",
        description="Run the UniqueID server.",
        epilog="It runs until SIGTERM or SIGINT, and then answers what it has accepted.",
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
        help="port to listen on (default: UNIQUEID_LISTEN, then the CherryPy file's, then 8051)",
    )
    parser.add_argument(
        "-a",
        "--address",
        metavar="ADDRESS",
        help="address to listen on (default: UNIQUEID_LISTEN, then the CherryPy file's, then"
        " localhost)",
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
