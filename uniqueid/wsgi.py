"""The composition root for uWSGI and other WSGI servers: built once, at import.

Bad settings, a database that cannot be reached and a schema that needs ``dbsync`` end the process
here, with one line that says what to do.
"""

from __future__ import annotations

import atexit
import logging
import sys

from uniqueid import logs, service
from uniqueid.errors import UniqueIDError
from uniqueid.runtime import request_timeout

try:
    import uwsgi
except ImportError:  # another server
    uwsgi = None

log = logging.getLogger("uniqueid")

# uWSGI's own code for an application that failed to load: with it, the master ends as well
# instead of starting worker after worker.
_FAILED_APP = 22


def _refuse_more_processes() -> None:
    if uwsgi is not None and uwsgi.numproc > 1:
        raise UniqueIDError(
            f"uWSGI was told to run {uwsgi.numproc} processes: set processes = 1 (-p 1). One"
            " process holds the queue and the memory of what was handed out; its threads serve"
            " many clients at once"
        )


def _threads() -> int:
    return 48 if uwsgi is None else int(uwsgi.opt.get("threads", 1))


def _build() -> service.Service:
    logs.never_block()
    try:
        _refuse_more_processes()
        send = None if uwsgi is None else uwsgi.send
        return service.build(threads=_threads(), send_interim=send)
    except UniqueIDError as error:
        logs.set_up("info")
        log.critical("%s", error)
        sys.exit(_FAILED_APP)


def _start() -> None:
    """After the fork, where threads survive."""
    _service.start()
    ports = request_timeout.ports(uwsgi.opt.get("http-socket"))
    if "listen" not in uwsgi.opt:
        request_timeout.hold_many(ports)
    request_timeout.Arrival(ports).start()


_service = _build()
application = _service.app
if uwsgi is None:
    atexit.register(_service.allocator.close, 30)
else:
    uwsgi.post_fork_hook = _start
    uwsgi.atexit = _service.allocator.close
