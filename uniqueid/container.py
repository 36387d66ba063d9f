"""The entry point of the container image.

It maps the old image's environment, makes the tables where that is wanted, and becomes uWSGI::

    python -m uniqueid.container [UWSGI ARGUMENT...]
    python -m uniqueid.container pacifica-uniqueid-cmd ARGUMENT...
    python -m uniqueid.container --ready [URL]

The second form runs a command with the same environment. The third exits 0 if the service at a URL
is ready, without taking an ID.
"""

# Only the standard library up here: the health check runs this module every few seconds.
from __future__ import annotations

import http.client
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote, urlsplit

UWSGI_INI: Final = "/etc/uniqueid/uwsgi.ini"
READY_URL: Final = "http://127.0.0.1:8051/readyz"
READY_TIMEOUT: Final = 5.0
"""Seconds."""

_URLS = ("UNIQUEID_DATABASE_URL", "PEEWEE_DATABASE_URL", "PEEWEE_URL")
_PARTS = ("PROTO", "USER", "PASS", "ADDR", "PORT", "DATABASE")
_COMMANDS = frozenset({"pacifica-uniqueid", "pacifica-uniqueid-cmd"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point; the exit status, unless the process becomes another program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--ready"]:
        return _ready(*arguments[1:2])
    from uniqueid.errors import UniqueIDError

    # The first process of a container has no default action for SIGTERM: while it waits for the
    # database, it would not stop.
    signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
    try:
        url = database_url(os.environ)
        if url is not None:
            os.environ["PEEWEE_DATABASE_URL"] = url
        if arguments and arguments[0] in _COMMANDS:
            _become(*arguments)
        status = _prepare(os.environ)
    except UniqueIDError as error:
        print(f"uniqueid: {error}", file=sys.stderr)
        return 2
    if status == 0:
        _become("uwsgi", "--ini", UWSGI_INI, *arguments)
    return status


def database_url(environ: Mapping[str, str]) -> str | None:
    """The URL that the old image's ``PEEWEE_PROTO``, ``_USER``, ``_PASS``, ``_ADDR``, ``_PORT`` and
    ``_DATABASE`` describe, percent-encoded.

    None when there is none of them, or a URL as well, which then counts.

    :raises ConfigError: when parts are missing or cannot be used.
    """
    from uniqueid.database_url import SCHEMES
    from uniqueid.errors import ConfigError

    given = {part: environ.get(f"PEEWEE_{part}", "") for part in _PARTS}
    if not any(given.values()) or any(environ.get(name) for name in _URLS):
        return None

    def refuse(part: str, reason: str) -> ConfigError:
        shown = None if part == "PASS" else given[part]
        return ConfigError("[database] url", shown, f"PEEWEE_{part}", reason)

    protocol = given["PROTO"]
    if protocol.removesuffix("+pool") not in SCHEMES:
        raise refuse("PROTO", f"must be one of {', '.join(SCHEMES)}")
    if not given["DATABASE"]:
        raise refuse("DATABASE", "must name the database")
    if SCHEMES[protocol.removesuffix("+pool")] == "sqlite":
        return f"{protocol}:///{quote(given['DATABASE'])}"
    if not given["ADDR"]:
        raise refuse("ADDR", "must name the database's host")
    if given["PORT"] and not (given["PORT"].isdecimal() and int(given["PORT"]) < 65536):
        raise refuse("PORT", "must be a number from 0 to 65535")
    if given["PASS"] and not given["USER"]:
        raise refuse("USER", "must be given with a password")
    place = f"[{given['ADDR']}]" if ":" in given["ADDR"] else quote(given["ADDR"], safe="")
    if given["PORT"]:
        place += f":{given['PORT']}"
    if given["USER"]:
        user = quote(given["USER"], safe="")
        if given["PASS"]:
            user += ":" + quote(given["PASS"], safe="")
        place = f"{user}@{place}"
    return f"{protocol}://{place}/{quote(given['DATABASE'], safe='')}"


def _prepare(environ: MutableMapping[str, str]) -> int:
    """Make the tables, or check them; the exit status of that."""
    from uniqueid import cli, config
    from uniqueid.errors import ConfigError

    database = config.load().database
    wanted = environ.get("UNIQUEID_DBSYNC", "")
    if wanted not in ("", "0", "1"):
        raise ConfigError("UNIQUEID_DBSYNC", wanted, "the environment", "must be 1 or 0")
    if database.kind == "sqlite":
        place = Path(database.database).parent
        if not os.access(place, os.W_OK):
            raise ConfigError(
                "[database] url",
                str(database),
                "as configured",
                f"user {os.getuid()} cannot write to {place}: mount a volume there that it can",
            )
        if place.stat().st_dev == os.stat("/").st_dev:
            print(
                f"uniqueid: WARNING: {database.database} is in the container itself and goes with"
                f" it; after that every mode starts at 1 again. Mount a volume at {place}",
                file=sys.stderr,
            )
    # Checked here and not only by uWSGI, since this process can be stopped while it waits.
    status = cli.main(
        ["dbsync" if wanted == "1" or (not wanted and database.kind == "sqlite") else "dbchk"]
    )
    sys.stdout.flush()
    return status


def _become(program: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals go to the program itself."""
    path = Path(sys.executable).parent / program
    os.execv(path, [program, *arguments])


def _ready(url: str = READY_URL) -> int:
    """Exit status 0 if the service answers that it is ready."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port or 80, timeout=READY_TIMEOUT
    )
    try:
        connection.request("GET", parts.path or "/readyz")
        response = connection.getresponse()
        body = response.read(8192).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    print(f"{url}: {response.status} {body}")
    return 0 if response.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
