"""The entry point of the container image.

It checks the tables and becomes uWSGI::

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
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

UWSGI_INI: Final = "/etc/uniqueid/uwsgi.ini"
READY_URL: Final = "http://127.0.0.1:8051/readyz"
READY_TIMEOUT: Final = 5.0
"""Seconds."""

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
    if arguments and arguments[0] in _COMMANDS:
        _become(*arguments)
    try:
        status = _check()
    except UniqueIDError as error:
        print(f"uniqueid: {error}", file=sys.stderr)
        return 2
    if status == 0:
        _become("uwsgi", "--ini", UWSGI_INI, *arguments)
    return status


def _check() -> int:
    """Check the tables; the exit status of that. They are never created here: an empty database is
    more likely the wrong one, or a volume that is not mounted, than a new one.
    """
    from uniqueid import config
    from uniqueid.commands import cli
    from uniqueid.database.dialects import DIALECTS
    from uniqueid.errors import ConfigError

    if "UNIQUEID_DBSYNC" in os.environ:
        print(
            "uniqueid: UNIQUEID_DBSYNC is ignored: tables are created by 'pacifica-uniqueid-cmd"
            " dbsync', which is run once, and never at a start",
            file=sys.stderr,
        )
    database = config.load().database
    place = DIALECTS[database.kind].directory(database)
    if place is not None:
        if not os.access(place, os.W_OK):
            raise ConfigError(
                "[database] url",
                str(database),
                "as configured",
                f"user {os.getuid()} cannot write to {place}: mount a volume there that it can",
            )
        if os.stat(place).st_dev == os.stat("/").st_dev:
            print(
                f"uniqueid: WARNING: {database.database} is in the container itself and goes with"
                f" it; after that every mode starts at 1 again. Mount a volume at {place}",
                file=sys.stderr,
            )
    # Checked here and not only by uWSGI, since this process can be stopped while it waits.
    status = cli.main(["dbchk"])
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
