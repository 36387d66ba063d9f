"""The built-in server: the same application under CherryPy's engine and HTTP server.

For Windows, for development, and for sites that have a CherryPy file already.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import cherrypy
from cherrypy import _cprequest
from cherrypy.lib import httputil

from uniqueid import config, service
from uniqueid.errors import ConfigError
from uniqueid.server import cherrypy_file
from uniqueid.server.cherrypy_file import CherryPyFile

CPCONFIG_VARIABLE: Final = "UNIQUEID_CPCONFIG"
HOME_FILE: Final = "~/.pacifica-uniqueid/cpconfig.ini"
HOST: Final = "localhost"
PORT: Final = 8051

# Ours where CherryPy's own default is small: requests that can wait for the database at the same
# time, and connections that wait for one of these threads.
_THREADS = 64
_BACKLOG = 128
# Would have a module imported, which a file must not.
_NOT_FROM_A_FILE = frozenset({"instance", "ssl_context", "httpserver", "bus", "interrupt"})
_LOG_KEYS: Mapping[str, Any] = {
    "log.screen": True,
    "log.access_file": "",
    "log.error_file": "",
    "log.access_log_format": "",
    "log.wsgi": True,
}
_SSL_MODULES = ("builtin", "pyopenssl")

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def find_files(
    named: str | None, cpconfig: str | None, environ: Mapping[str, str]
) -> tuple[str | None, CherryPyFile | None]:
    """The service's file, None for the usual places, and CherryPy's.

    :param named: what ``-c`` says. The old documentation gives it the CherryPy file, the old
        code the service's; the sections tell which.
    :param cpconfig: what ``--cpconfig`` says.
    :raises ConfigError: for a file that is missing, broken, or given to the wrong option.
    """
    option = "-c/--config"
    is_cherrypy = named is not None and cherrypy_file.kind_of(named, option) == "cherrypy"
    if cpconfig is not None:
        if is_cherrypy:
            raise ConfigError(
                option, named, "command line", "is a CherryPy file, and --cpconfig gives another"
            )
        return named, cherrypy_file.read(cpconfig, "--cpconfig")
    if is_cherrypy:
        return None, cherrypy_file.read(str(named), option)
    if environ.get(CPCONFIG_VARIABLE):
        return named, cherrypy_file.read(environ[CPCONFIG_VARIABLE], CPCONFIG_VARIABLE)
    home = os.path.expanduser(HOME_FILE)
    return named, cherrypy_file.read(home, "default") if os.path.exists(home) else None


def run(
    named: str | None = None,
    cpconfig: str | None = None,
    address: str | None = None,
    port: int | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then answer what was accepted.

    :param named: the file of ``-c``; `cpconfig` is that of ``--cpconfig``: see `find_files`.
    :param address: before the CherryPy file's, when given; and so is `port`.
    :returns: the exit status.
    :raises UniqueIDError: when it cannot be started; nothing was served then.
    """
    file, cp_file = find_files(named, cpconfig, os.environ)
    configuration = config.load(file)
    # A reply can take as long as its deadline; CherryPy's own 5 seconds would cut it off.
    cherrypy.server.shutdown_timeout = configuration.settings.request_timeout + 5
    configure(cp_file, address, port)
    _share_log()
    for key in cp_file.ignored if cp_file else ():
        logging.getLogger("uniqueid").warning(
            "%s (%s) is ignored: it is for applications made of CherryPy's handlers",
            key, cp_file.path if cp_file else None,
        )  # fmt: skip
    check_servers()
    built = service.build(configuration)
    app = with_headers(built.app, cp_file.headers) if cp_file and cp_file.headers else built.app
    cherrypy.tree.graft(with_access_log(with_whole_path(app)), "/")
    engine = cherrypy.engine
    engine.subscribe("start", built.start)
    # After the HTTP server, which stops before: its threads still wait for their answers.
    engine.subscribe(
        "exit", lambda: built.allocator.close(configuration.settings.request_timeout + 5)
    )
    early: list[bool] = []

    def end() -> None:
        # Not again, should it come in the middle of a restart.
        engine.execv = False
        if engine.state in (engine.states.STOPPED, engine.states.STARTING):
            # The engine would end the process at once, with what it has accepted already.
            early.append(True)
        elif engine.state == engine.states.STARTED:
            engine.exit()

    engine.signal_handler.handlers.update(SIGTERM=end, SIGINT=end)
    engine.signals.subscribe()
    if hasattr(engine, "console_control_handler"):
        engine.console_control_handler.subscribe()
    engine.start()
    if early:
        engine.exit()
    engine.block()
    return 0


# -- settings ---------------------------------------------------------------------------------


def configure(file: CherryPyFile | None, address: str | None, port: int | None) -> None:
    """Give CherryPy its configuration: our defaults, the file's, the command line's.

    :raises ConfigError: for a key or value that CherryPy cannot use.
    """
    server = cherrypy.server
    server.socket_host, server.socket_port = HOST, PORT
    server.thread_pool, server.socket_queue_size = _THREADS, _BACKLOG
    # A package that is replaced under the running service would restart it half-replaced.
    cherrypy.config.update({"engine.autoreload.on": False})
    if file is not None:
        known = _known_keys(file.server)
        for key, value in _with_environment(file).items():
            cherrypy_file.check(key, value, known, file.path)
            _apply(key, value, file.path)
    if address is not None:
        server.socket_host, server.socket_file = address, None
    if port is not None:
        server.socket_port, server.socket_file = port, None


def _with_environment(file: CherryPyFile) -> dict[str, Any]:
    """The file's keys, and those of the named environment below them."""
    keys = dict(file.server)
    name = keys.pop("environment", None)
    if name is None:
        return keys
    environments = cherrypy.config.environments
    if not isinstance(name, str) or name not in environments:
        reason = f"must be one of {', '.join(sorted(environments))}"
        raise ConfigError("[global] environment", repr(name), file.path, reason)
    preset = {
        key: value
        for key, value in environments[name].items()
        if key.startswith(("engine.autoreload", "log.", "checker."))
    }
    return {**preset, **keys}


def _known_keys(given: Iterable[str]) -> dict[str, Any]:
    """Every key there is and the value it has."""
    keys: dict[str, Any] = {**_LOG_KEYS, "checker.on": True}
    attributes = _attributes(cherrypy.server, _NOT_FROM_A_FILE)
    keys |= {f"server.{name}": value for name, value in attributes.items()}
    for key in given:
        # CherryPy's way to more servers: server.NAME.KEY
        namespace, _, rest = key.partition(".")
        name, dot, _attribute = rest.partition(".")
        if namespace == "server" and dot:
            keys[f"server.{name}.on"] = True
            keys |= {f"server.{name}.{part}": value for part, value in attributes.items()}
    for name in ("autoreload", "signals", "thread_manager", "console_control_handler"):
        plugin = getattr(cherrypy.engine, name, None)
        if plugin is not None:
            keys[f"engine.{name}.on"] = True
    for name in ("frequency", "match", "files"):
        keys[f"engine.autoreload.{name}"] = getattr(cherrypy.engine.autoreload, name)
    return keys


def _attributes(adapter: Any, without: frozenset[str]) -> dict[str, Any]:
    derived = {"base", "bind_addr", "bound_addr", "description", "running"}
    found = {}
    for name in dir(type(adapter)):
        if name.startswith("_") or name in derived or name in without:
            continue
        value = getattr(adapter, name)
        if not callable(value):
            found[name] = value
    return found


def _apply(key: str, value: Any, path: str) -> None:
    option = f"[global] {key}"
    name = key.rpartition(".")[2]
    if name == "ssl_module" and value not in _SSL_MODULES:
        # CherryPy would import any other name.
        raise ConfigError(option, repr(value), path, f"must be one of {', '.join(_SSL_MODULES)}")
    if name == "socket_port" and not (isinstance(value, int) and 0 <= value <= 65535):
        raise ConfigError(option, repr(value), path, "must be a whole number from 0 to 65535")
    if name in ("thread_pool", "socket_queue_size") and not (isinstance(value, int) and value > 0):
        raise ConfigError(option, repr(value), path, "must be a whole number above 0")
    try:
        cherrypy.config.update({key: value})
    except OSError as error:
        raise ConfigError(option, repr(value), path, f"{error.strerror}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(option, repr(value), path, " ".join(str(error).split())) from None


# -- what can be known before the start -------------------------------------------------------


def check_servers() -> None:
    """Refuse what the HTTP servers could not be started with, before CherryPy tries.

    Its engine would answer with a traceback and end the process.

    :raises ConfigError: for TLS files, thread numbers or an address that cannot be used.
    """
    for server in [cherrypy.server, *getattr(cherrypy, "servers", {}).values()]:
        if server is not cherrypy.server and server.start not in cherrypy.engine.listeners["start"]:
            continue
        try:
            server.httpserver, server.bind_addr = server.httpserver_from_self()
        except ImportError as error:
            raise ConfigError("server.ssl_module", server.ssl_module, "CherryPy", str(error)) from (
                None
            )
        except (OSError, ssl.SSLError) as error:
            files = f"{server.ssl_certificate}, {server.ssl_private_key}"
            reason = f"cannot be used for TLS: {error.strerror or error}"
            raise ConfigError("server.ssl_certificate, server.ssl_private_key", files, "CherryPy",
                              reason) from None  # fmt: skip
        except (TypeError, ValueError) as error:
            raise ConfigError("server", None, "CherryPy", " ".join(str(error).split())) from None
        # A socket that systemd hands over is in use already, by systemd.
        if not os.environ.get("LISTEN_PID"):
            _check_address(server.bind_addr)


def _check_address(address: tuple[str, int] | str) -> None:
    if isinstance(address, str):
        directory = Path(address).absolute().parent
        if not (directory.is_dir() and os.access(directory, os.W_OK)):
            reason = f"{directory} is no directory that can be written to"
            raise ConfigError("server.socket_file", address, "CherryPy", reason)
        return
    host, port = address
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )  # as Cheroot looks it up
    except (OSError, UnicodeError):
        raise ConfigError("address", host, where, "is no address of this machine") from None
    usable = False
    reason = ""
    for family, kind, protocol, _name, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(place)
            usable = True
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if error.errno == errno.EADDRINUSE:
                # By whoever would then answer half of the clients.
                usable = False
                break
    if not usable:
        raise ConfigError("port", str(port), where, f"the server cannot listen there: {reason}")


# -- around the application -------------------------------------------------------------------


class _IntoCherryPyLog(logging.Handler):
    """Hands the service's own lines to CherryPy's error log: one log, wherever it is kept."""

    def emit(self, record: logging.LogRecord) -> None:
        cherrypy.log.error(self.format(record), "UNIQUEID", severity=record.levelno)


def _share_log() -> None:
    ours = logging.getLogger("uniqueid")
    ours.addHandler(_IntoCherryPyLog())
    ours.propagate = False
    # Or the root's handler would write each line a second time.
    logging.getLogger("cherrypy").propagate = False
    cherrypy.log.error_log.setLevel(logging.DEBUG)


def with_whole_path(app: WSGIApplication) -> WSGIApplication:
    """Gives back what Cheroot takes from `//getid`: it reads the first part as a host.

    Consumers are configured with a URL that may end in a slash, and add their own.
    """

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target = environ.get("REQUEST_URI", "")
        if target.startswith("//"):
            path = unquote_to_bytes(target.partition("?")[0]).decode("latin-1")
            environ["PATH_INFO"] = "/" + path.lstrip("/")
        return app(environ, start_response)

    return application


def with_headers(
    app: WSGIApplication, headers: Mapping[str, tuple[tuple[str, str], ...]]
) -> WSGIApplication:
    """`tools.response_headers`: more headers by URL path, the longest path first.

    A header which the service sets itself stays as it is.
    """
    by_length = sorted(headers.items(), key=lambda item: -len(item[0]))

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        more = next(
            (
                pairs
                for prefix, pairs in by_length
                if path == prefix or path.startswith(prefix + "/")
            ),
            (),
        )

        def start(status: str, given: list[tuple[str, str]], exc_info: Any = None) -> Any:
            names = {name.lower() for name, _value in given}
            added = [(name, value) for name, value in more if name.lower() not in names]
            return start_response(status, [*given, *added], exc_info)

        return app(environ, start)

    return application


def with_access_log(app: WSGIApplication) -> WSGIApplication:
    """Writes CherryPy's access log, which it writes for its own applications alone."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer: list[Any] = ["-", []]

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            answer[:] = status, headers
            return start_response(status, headers, exc_info)

        body = app(environ, start)
        # The first is the handler which says nothing.
        if len(cherrypy.log.access_log.handlers) > 1:
            _log_access(environ, *answer)
        return body

    return application


def _log_access(environ: Mapping[str, Any], status: str, headers: list[tuple[str, str]]) -> None:
    """Let CherryPy format the line, from a request and a response as it has them."""
    remote = httputil.Host(environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0))
    request = _cprequest.Request(cherrypy.serving.request.local, remote)
    request.login = environ.get("REMOTE_USER")
    request.request_line = " ".join(
        (
            environ["REQUEST_METHOD"],
            environ.get("REQUEST_URI") or environ.get("PATH_INFO", ""),
            environ.get("ACTUAL_SERVER_PROTOCOL") or environ["SERVER_PROTOCOL"],
        )
    )
    for name, key in (("Referer", "REFERER"), ("User-Agent", "USER_AGENT"), ("Host", "HOST")):
        if f"HTTP_{key}" in environ:
            request.headers[name] = environ[f"HTTP_{key}"]
    response = _cprequest.Response()
    response.output_status = status.encode("latin-1")
    for name, value in headers:
        response.headers[name] = value
    cherrypy.serving.load(request, response)
    try:
        cherrypy.log.access()
    finally:
        cherrypy.serving.clear()
