"""The commands ``pacifica-uniqueid-cmd`` and ``pacifica-uniqueid``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import shtab

from uniqueid import __version__
from uniqueid.commands import counters, database, fence, journal, setup
from uniqueid.commands import serve as serve_command
from uniqueid.commands.arguments import UNUSABLE, seconds
from uniqueid.commands.configured import open_configured, open_store
from uniqueid.errors import ConfigError, UniqueIDError


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
        self.exit(UNUSABLE, f"{self.prog}: {message}\n")


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
        return UNUSABLE
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

    database.add_commands(commands)
    setup.add_commands(commands, main)
    counters.add_commands(commands)
    setup.add_config(commands)
    fence.add_command(commands, open_configured)
    journal.add_commands(commands, open_store)
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
                type=seconds,
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


def _serve_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pacifica-uniqueid",
        description="Run the UniqueID server.",
        epilog="It runs until SIGTERM or SIGINT, and then answers what it has accepted.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    serve_command.add_options(parser)
    return parser
