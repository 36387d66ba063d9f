"""The commands: ``python -m uniqueid_client get`` and ``probe``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from uniqueid_client import probe
from uniqueid_client.client import Client
from uniqueid_client.errors import UniqueIDError
from uniqueid_client.protocol import read_token
from uniqueid_client.version import __version__

MAX_ID = 2**63 - 2
PROGRAM = "pacifica-uniqueid-client"
EXAMPLES = """examples:
  pacifica-uniqueid-client get --url http://localhost:8051 --mode file --range 10
  read -r first last <<< "$(pacifica-uniqueid-client get --mode file --range 10)"
  pacifica-uniqueid-client probe --url https://ids.example.org
"""


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, and accepts no abbreviated options."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options, allow_abbrev=False)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argument type: a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {low} to {high}")
        return int(text)

    return read


def parser() -> Parser:
    """The arguments of both commands."""
    top = Parser(
        prog=PROGRAM,
        description="Allocate IDs of a Pacifica UniqueID service, or find caches in front of it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("get", help="print the first and the last ID of a new range")
    command.add_argument("--mode", required=True, help="the name of the counter")
    command.add_argument(
        "--range", type=whole(1, MAX_ID), required=True, metavar="N", help="the number of IDs"
    )
    command.add_argument("--key", help="an idempotency key: the same key prints the same range")
    command.set_defaults(run=get)
    _add_common(command)

    command = commands.add_parser(
        "probe",
        help="exit 1 if a cache or proxy repeats responses",
        description="Send identical requests, sequential and concurrent, and check that each"
        " response is new. It uses about 100 IDs of a mode of its own.",
    )
    command.add_argument(
        "--mode", default=probe.MODE, help="the counter to use (default: %(default)s)"
    )
    for option, low, high, default, text in (
        ("--requests", 2, 10_000, 20, "requests of each kind"),
        ("--concurrency", 2, 200, 10, "concurrent requests"),
    ):
        command.add_argument(
            option,
            type=whole(low, high),
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )
    command.set_defaults(run=probe.run)
    _add_common(command)
    return top


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--url",
        default=os.environ.get("UNIQUEID_URL", ""),
        help="the service, as its clients reach it: http://HOST:PORT (default: UNIQUEID_URL)",
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="for a connection, and for a response (default: %(default)g)",
    )
    command.add_argument(
        "--token-file",
        default=os.environ.get("UNIQUEID_TOKEN_FILE"),
        metavar="FILE",
        help="a file with the token to send (default: UNIQUEID_TOKEN_FILE)",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")


def get(arguments: argparse.Namespace) -> int:
    """Print the first and the last ID of a range."""
    token = None if arguments.token_file is None else read_token(arguments.token_file)
    with Client(arguments.url, timeout=arguments.timeout, token=token) as client:
        ids = client.get_range(arguments.mode, arguments.range, key=arguments.key)
    if arguments.json:
        print(json.dumps({"mode": ids.mode, "startIndex": ids.first, "endIndex": ids.last}))
    else:
        print(ids.first, ids.last)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    parsed = parser().parse_args(arguments)
    try:
        status = int(parsed.run(parsed))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The interpreter flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UniqueIDError, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
