"""The composition root for uWSGI and other WSGI servers: built once, at import.

At a start, settings that cannot be used, a database that cannot be reached and a schema that needs
``dbsync`` end the process here, with one line that says what to do. After a reload:

1. Settings that cannot be used are reported, and the service goes on with those accepted last.
2. The database is not waited for: `/livez` answers, and requests are rejected until it is back.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import sys
from functools import partial
from typing import Any, NoReturn

from uniqueid import config, logs, service
from uniqueid.errors import ConfigError, UniqueIDError
from uniqueid.runtime import request_timeout

try:
    import uwsgi
except ImportError:  # another server
    uwsgi = None

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

log = logging.getLogger("uniqueid")

# uWSGI's own code for an application that failed to load: with it, the master ends as well
# instead of starting worker after worker.
_FAILED_APP = 22
# The settings that were accepted last outlive the exec(2) of a reload in the environment of the
# process, and never on a disk.
_ACCEPTED = "UNIQUEID_ACCEPTED_SETTINGS"
# Linux refuses an exec(2) with a variable of more than 128 KiB.
_MAX_ACCEPTED = 100_000
# Seconds for the committer to end when every request has its response: a statement that hangs
# would keep a reload waiting.
_END = 2.0
# Besides one for each thread's connection: uWSGI, Python, log, database, fence, health checks.
_OTHER_FILES = 80


def _refuse_more_processes() -> None:
    if uwsgi is not None and uwsgi.numproc > 1:
        raise UniqueIDError(
            f"uWSGI was told to run {uwsgi.numproc} processes: set processes = 1 (-p 1). One"
            " process holds the queue and the memory of what was allocated; its threads serve"
            " many clients at once"
        )


def _refuse_few_files() -> None:
    """uWSGI writes a line for each connection that it cannot accept, without end."""
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        needed = _threads() + _OTHER_FILES
        if 0 <= limit < needed:
            raise UniqueIDError(
                f"the process may open {limit} files: allow {needed} or more (ulimit -n,"
                f" LimitNOFILE=) for {_threads()} threads"
            )


def _threads() -> int:
    return 48 if uwsgi is None else int(uwsgi.opt.get("threads", 1))


def _server() -> dict[str, Any]:
    """What the service has to know of its server."""
    return {"threads": _threads(), "send_interim": None if uwsgi is None else uwsgi.send}


def _accepted() -> dict[str, Any] | None:
    """What the process had accepted before a reload; None at a start."""
    accepted: dict[str, Any] = json.loads(os.environ.pop(_ACCEPTED, "{}"))
    return accepted if accepted.get("process") == os.getpid() else None


def _accept(built: service.Service) -> None:
    configuration = built.configuration
    chosen = {
        name: (text, configuration.sources[name]) for name, text in configuration.texts.items()
    }
    text = json.dumps(
        {
            "process": os.getpid(),
            "file": configuration.file,
            "settings": chosen,
            "tokens": dict(built.token_texts),
        }
    )
    if len(text) < _MAX_ACCEPTED:
        os.environ[_ACCEPTED] = text


def _build() -> service.Service:
    logs.never_block()
    accepted = _accepted()
    try:
        _refuse_more_processes()
        _refuse_few_files()
        built = service.build(**_server()) if accepted is None else _rebuild(accepted)
    except Exception as error:
        _fail(error)
    _accept(built)
    return built


def _rebuild(accepted: dict[str, Any]) -> service.Service:
    """The service after a reload."""
    settings = {name: (text, source) for name, (text, source) in accepted["settings"].items()}
    before = config.configure(settings, file=accepted["file"])
    options = {**_server(), "token_texts": accepted["tokens"]}
    after = before
    try:
        after = config.load()
        # The database is asked about settings that depend on it, once; about others it is not.
        asked = [
            (each.database, each.settings.journal, each.settings.durability)
            for each in (before, after)
        ]
        service.check_fence(after)
        return service.build(after, connect_attempts=int(asked[0] != asked[1]), **options)
    except UniqueIDError as error:
        logs.set_up(before.settings.log_level, before.settings.log_format)
        facts = (
            {"option": error.option, "value": error.value, "source": error.source}
            if isinstance(error, ConfigError)
            else {"database": after.database}
        )
        reason = error.allowed if isinstance(error, ConfigError) else str(error)
        log.error(logs.Event("reload rejected", **facts, reason=reason))
    return service.build(before, connect_attempts=0, **options)


def _fail(error: Exception) -> NoReturn:
    logs.set_up("info")
    if isinstance(error, UniqueIDError):
        log.critical("%s", error)
    else:
        log.critical("the start failed", exc_info=error)
    sys.exit(_FAILED_APP)


def _start() -> None:
    """Start the threads, after the fork that they would not survive."""
    _service.start()
    addresses = uwsgi.opt.get("http-socket")
    ports = request_timeout.ports(addresses)
    if "listen" not in uwsgi.opt:
        request_timeout.raise_listen_backlog(ports)
    request_timeout.RequestReadTimeout(ports).start()
    log.info(logs.Event("serving", url=",".join(request_timeout.urls(addresses))))


def _start_whole() -> None:
    """The hook of uWSGI, which ignores what it raises: a start is whole, or the master ends."""
    try:
        _start()
    except BaseException as error:
        log.critical("the start failed", exc_info=error)
        # Of the first process of a container the system takes no SIGKILL.
        os.kill(uwsgi.masterpid(), signal.SIGTERM if uwsgi.masterpid() == 1 else signal.SIGKILL)
        os._exit(_FAILED_APP)


_service = _build()
application = _service.app
if uwsgi is None:
    atexit.register(_service.allocator.close, 30)
else:
    uwsgi.atexit = partial(_service.allocator.close, _END)
    if uwsgi.worker_id():
        # With lazy-apps the fork is over.
        _start_whole()
    else:
        uwsgi.post_fork_hook = _start_whole
