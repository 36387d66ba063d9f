"""The commands ``pacifica-uniqueid-cmd`` and ``pacifica-uniqueid``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from uniqueid import __version__, config, probe, schema, service
from uniqueid.errors import ConfigError, UniqueIDError

_UNUSABLE = 2
"""The exit status for a command line or a setting that cannot be used, as argparse's own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``pacifica-uniqueid-cmd``."""
    return _guarded(_parser(), argv)


def serve(argv: Sequence[str] | None = None) -> int:
    """Run ``pacifica-uniqueid``."""
    raise UniqueIDError("not built")


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
    command.set_defaults(run=_dbsync)

    command = commands.add_parser("dbchk", help="exit 0 if the service can run on the tables")
    command.add_argument(
        "--equal",
        action="store_true",
        help="the minor version must be this release's as well",
    )
    command.set_defaults(run=_dbchk)

    command = commands.add_parser(
        "config", help="print every setting that counts and where it came from"
    )
    command.set_defaults(run=_config)

    probe.add_commands(commands)
    return parser


def _load(arguments: argparse.Namespace) -> config.Configuration:
    configuration = config.load(arguments.config)
    service.set_up_logging(configuration.settings.log_level)
    return configuration


def _dbsync(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    settings = configuration.settings
    store = service.make_store(configuration, create=True)
    store.connect(settings.connect_attempts, settings.connect_wait)
    for step in schema.sync(store):
        print(step)
    print("the schema has version {}.{}".format(*schema.CURRENT))
    return 0


def _dbchk(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    settings = configuration.settings
    store = service.make_store(configuration)
    store.connect(settings.connect_attempts, settings.connect_wait)
    schema.check(store, equal=arguments.equal)
    return 0


def _config(arguments: argparse.Namespace) -> int:
    configuration = _load(arguments)
    for option, value, source in configuration.describe():
        print(f"{option} = {value}  ({source})")
    for warning in configuration.warnings:
        print(warning, file=sys.stderr)
    return 0
