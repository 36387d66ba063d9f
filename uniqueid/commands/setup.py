"""Commands for a new installation: ``init``, ``token`` and ``config``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from uniqueid import config
from uniqueid.commands import arguments
from uniqueid.commands.configured import load
from uniqueid.errors import ConfigError


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    main: Callable[[Sequence[str]], int],
) -> None:
    """Add ``init`` and ``token`` to the parser.

    :param main: runs another command.
    """
    command = commands.add_parser(
        "init", help="write config.cfg and uwsgi.ini into a directory, and create the tables"
    )
    command.add_argument(
        "directory", metavar="DIR", nargs="?", default=".", help="made if absent (default: here)"
    )
    command.set_defaults(run=lambda options: _init(options, main))

    command = commands.add_parser(
        "token", help="make a random token, and its line for auth_tokens_file"
    )
    command.add_argument("name", metavar="NAME", type=arguments.name, help="whose token it is")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_token)


def add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``config`` to the parser."""
    command = commands.add_parser(
        "config", help="print every setting that counts and where it came from"
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_config)


def _init(options: argparse.Namespace, main: Callable[[Sequence[str]], int]) -> int:
    place = Path(options.directory)
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
    no_create = ["--no-create"] if existed else []
    status = main(["-c", config.LOCAL_FILE, "dbsync", *no_create])
    if status == 0:
        where = "" if options.directory == "." else f"cd {shlex.quote(str(place))} && "
        print(f"next: {where}uwsgi --ini uwsgi.ini")
    return status


def _token(options: argparse.Namespace) -> int:
    token = secrets.token_urlsafe(32)
    line = f"{options.name} {hashlib.sha256(token.encode()).hexdigest()}"
    if options.json:
        print(json.dumps({"token": token, "line": line}, indent=2))
    else:
        print(f"token, for the client: {token}\nline, for auth_tokens_file: {line}")
    return 0


def _config(options: argparse.Namespace) -> int:
    configuration = load(options)
    if options.json:
        names = ("option", "value", "source")
        listed = [dict(zip(names, row, strict=True)) for row in configuration.describe()]
        print(json.dumps({"settings": listed}, indent=2))
        return 0
    for option, value, source in configuration.describe():
        print(f"{option} = {value}  ({source})")
    for warning in configuration.warnings:
        print(warning, file=sys.stderr)
    return 0
