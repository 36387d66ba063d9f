"""The command ``pacifica-uniqueid``."""

from __future__ import annotations

import argparse

from uniqueid.commands.arguments import whole_number
from uniqueid.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add its options to a parser."""
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
        type=whole_number(0, 65535),
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


def _serve(options: argparse.Namespace) -> int:
    # Imported for this command alone.
    from uniqueid.server import builtin

    if options.address == "":
        raise ConfigError("-a/--address", "", "command line", "must name an address, as localhost")
    return builtin.run(options.config, options.address, options.port)
