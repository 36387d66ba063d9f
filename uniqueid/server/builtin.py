"""The built-in server: the same application on cheroot, CherryPy's HTTP server.

For Windows, for development, and for sites with a CherryPy file.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cheroot import wsgi
from cheroot.server import HTTPConnection, HTTPRequest, get_ssl_adapter_class

from uniqueid import config, logs, service
from uniqueid.errors import ConfigError
from uniqueid.server import cherrypy_file
from uniqueid.server.cherrypy_file import CherryPyFile

CPCONFIG_VARIABLE: Final = "UNIQUEID_CPCONFIG"
LISTEN_VARIABLE: Final = "UNIQUEID_LISTEN"
HOME_FILE: Final = "~/.pacifica-uniqueid/cpconfig.ini"

log = logging.getLogger("uniqueid.server")

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[str, str]]


class _Request(HTTPRequest):
    """Accepts a target that begins with two slashes, which Cheroot takes for one with a host."""

    def __init__(self, server: Any, connection: Any) -> None:
        super().__init__(server, connection, proxy_mode=True)


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request


class Server(wsgi.Server):
    """Cheroot's server, with its messages in the service's log."""

    ConnectionClass = _Connection

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        log.log(level, "%s", msg.strip(), exc_info=traceback)


def find_file(named: str | None, environ: Mapping[str, str]) -> CherryPyFile:
    """The CherryPy file of the command line, the environment or the home directory; or defaults.

    :param named: the file that ``-c`` names.
    :raises ConfigError: for a file that is missing or not supported.
    """
    if named is not None:
        return cherrypy_file.read(named, "-c/--config")
    if environ.get(CPCONFIG_VARIABLE):
        return cherrypy_file.read(environ[CPCONFIG_VARIABLE], CPCONFIG_VARIABLE)
    home = os.path.expanduser(HOME_FILE)
    return cherrypy_file.read(home, "default") if os.path.exists(home) else CherryPyFile()


def run(named: str | None = None, address: str | None = None, port: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then complete the accepted requests.

    :param named: the CherryPy file; see `find_file`.
    :param address: overrides the file's, as `port` does.
    :returns: the exit status.
    :raises UniqueIDError: if the server cannot be started.
    """
    file = find_file(named, os.environ)
    values = dict(file.values)
    listen = parse_listen(os.environ.get(LISTEN_VARIABLE, ""))
    address = listen[0] if address is None else address
    port = listen[1] if port is None else port
    for key, value in (("server.socket_host", address), ("server.socket_port", port)):
        if value is not None:
            values |= {key: value, "server.socket_file": ""}
    configuration = config.load()
    access_log = open_logs(values, file.path, configuration.settings)
    if file.ignored:
        log.warning("%s is ignored in %s", ", ".join(file.ignored), file.path)
    grace = configuration.settings.request_timeout + 5
    values["server.shutdown_timeout"] = values["server.shutdown_timeout"] or grace
    server = make_server(values, file.path)
    check_address(server.bind_addr)
    built = service.build(configuration, threads=values["server.thread_pool"])
    app = with_headers(built.app, file.headers) if file.headers else built.app
    server.wsgi_app = with_access_log(with_whole_path(app), access_log)
    # Before the signals: cheroot reports what check_address cannot know.
    try:
        server.prepare()
    except OSError as error:
        raise _cannot_listen(server.bind_addr, str(error)) from None
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    built.start()
    serving = threading.Thread(target=server.serve, name="server", daemon=True)
    serving.start()
    scheme = "http" if server.ssl_adapter is None else "https"
    host, number = server.bind_addr[:2] if isinstance(server.bind_addr, tuple) else ("", 0)
    where = f"{scheme}://{host}:{number}" if host else server.bind_addr
    log.info(logs.Event("serving", address=where, threads=values["server.thread_pool"]))
    # Windows does not interrupt a wait without a time-out.
    while serving.is_alive() and not ended.wait(1):
        pass
    log.info(logs.Event("stopping", address=where))
    server.stop()
    built.allocator.close(grace)
    log.info(logs.Event("stopped", address=where))
    return 0 if ended.is_set() else 1


def parse_listen(text: str) -> tuple[str | None, int | None]:
    """Address and port of ``HOST:PORT``; no host means every address, as for uWSGI."""
    if not text:
        return None, None
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]*)):([0-9]{1,5})", text, re.ASCII)
    if found is None or int(found[3]) > 65535:
        raise ConfigError(LISTEN_VARIABLE, text, "environment", "must be HOST:PORT or :PORT")
    return found[1] or found[2] or "", int(found[3])


def make_server(values: Mapping[str, Any], path: str) -> Server:
    """A server with the settings of a CherryPy file, without an application."""
    host = values["server.socket_host"]
    if not host:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    server = Server(
        values["server.socket_file"] or (host, values["server.socket_port"]),
        None,
        numthreads=values["server.thread_pool"],
        request_queue_size=values["server.socket_queue_size"],
        timeout=values["server.socket_timeout"],
        shutdown_timeout=values["server.shutdown_timeout"],
        accepted_queue_size=values["server.accepted_queue_size"],
        accepted_queue_timeout=values["server.accepted_queue_timeout"],
    )
    server.max_request_header_size = values["server.max_request_header_size"]
    server.max_request_body_size = values["server.max_request_body_size"]
    server.nodelay = values["server.nodelay"]
    server.protocol = values["server.protocol_version"]
    certificate, key = values["server.ssl_certificate"], values["server.ssl_private_key"]
    if certificate or key:
        names = ("server.ssl_certificate", "server.ssl_private_key")
        try:
            server.ssl_adapter = get_ssl_adapter_class(values["server.ssl_module"])(
                certificate,
                key,
                values["server.ssl_certificate_chain"] or None,
                values["server.ssl_ciphers"] or None,
            )
        except ImportError as error:
            option, value = "server.ssl_module", values["server.ssl_module"]
            raise ConfigError(option, value, path, str(error)) from None
        except (OSError, ssl.SSLError) as error:
            reason = f"cannot be used for TLS: {error.strerror or error}"
            raise ConfigError(", ".join(names), f"{certificate}, {key}", path, reason) from None
    return server


def check_address(address: tuple[str, int] | str) -> None:
    """Refuse an address that is in use in one of the address families of its name.

    Another server would receive some of the requests. Cheroot is content with one family.
    """
    if isinstance(address, str):
        directory = os.path.dirname(os.path.abspath(address))
        if not os.access(directory, os.W_OK):
            raise _cannot_listen(address, f"{directory} is no directory that can be written to")
        return
    host, port = address
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        reason = "is no address of this machine"
        raise ConfigError("address", host, f"{host}:{port}", reason) from None
    for family, kind, protocol, _name, place in places:
        try:
            with socket.socket(family, kind, protocol) as candidate:
                if os.name == "posix":
                    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    candidate.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                candidate.bind(place)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _cannot_listen(address, os.strerror(errno.EADDRINUSE)) from None


def _cannot_listen(address: tuple[str, int] | str, reason: str) -> ConfigError:
    if isinstance(address, str):
        return ConfigError("server.socket_file", address, "as configured", reason)
    host, port = address
    return ConfigError("port", str(port), f"{host}:{port}", f"the server cannot listen: {reason}")


# -- logs -------------------------------------------------------------------------------------


def open_logs(
    values: Mapping[str, Any], path: str, settings: config.Settings
) -> logging.Logger | None:
    """Set up the log of the service, on the screen and in a file; returns that of requests."""
    logs.set_up(settings.log_level, settings.log_format)
    root = logging.getLogger()
    screen = root.handlers[0]
    error_file = _file_handler("log.error_file", values, path)
    if error_file is not None:
        error_file.setFormatter(screen.formatter)
        root.addHandler(error_file)
    access_file = _file_handler("log.access_file", values, path)
    handlers: list[logging.Handler] = [] if access_file is None else [access_file]
    if values["log.screen"]:
        handlers.append(logging.StreamHandler(sys.stdout))
    else:
        root.removeHandler(screen)
        root.addHandler(logging.NullHandler())
    if not handlers:
        return None
    access = logging.getLogger("uniqueid.server.requests")
    access.propagate = False
    access.setLevel(logging.INFO)
    for handler in handlers:
        access.addHandler(handler)
    return access


def _file_handler(key: str, values: Mapping[str, Any], path: str) -> logging.Handler | None:
    if not values[key]:
        return None
    try:
        return logging.FileHandler(values[key], encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"[global] {key}", repr(values[key]), path, str(error.strerror)) from None


def with_access_log(app: WSGIApplication, access: logging.Logger | None) -> WSGIApplication:
    """Log requests in the Combined Log Format, as CherryPy does."""
    if access is None:
        return app

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            length = next((v for name, v in headers if name.lower() == "content-length"), "-")
            line = (
                f"{environ['REQUEST_METHOD']} {environ.get('REQUEST_URI', '')}"
                f" {environ.get('ACTUAL_SERVER_PROTOCOL') or environ['SERVER_PROTOCOL']}"
            )
            when = time.strftime("%d/%b/%Y:%H:%M:%S %z")
            referer, agent = environ.get("HTTP_REFERER", ""), environ.get("HTTP_USER_AGENT", "")
            cells = [f'"{_escaped(text)}"' for text in (line, referer, agent)]
            access.info(
                f"{environ.get('REMOTE_ADDR') or '-'} - - [{when}] {cells[0]} {status[:3]} {length}"
                f" {cells[1]} {cells[2]}"
            )
            return start_response(status, headers, exc_info)

        return app(environ, start)

    return application


def _escaped(text: str) -> str:
    """Without line breaks and quotes, which would make another line or another field."""
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


# -- around the application -------------------------------------------------------------------


def with_whole_path(app: WSGIApplication) -> WSGIApplication:
    """Restore the path of `//getid`, whose first part Cheroot takes for a host.

    Consumers are configured with a URL that may end in a slash, and append their own.
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
    """`tools.response_headers`: additional headers by URL path; the longest path counts.

    A header that the service sets itself is not replaced.
    """
    by_length = sorted(headers.items(), key=lambda item: -len(item[0]))

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "") + "/"
        more = next((pairs for start, pairs in by_length if path.startswith(start + "/")), ())

        def start(status: str, given: Headers, exc_info: Any = None) -> Any:
            names = {name.lower() for name, _value in given}
            added = [(name, value) for name, value in more if name.lower() not in names]
            return start_response(status, [*given, *added], exc_info)

        return app(environ, start)

    return application
