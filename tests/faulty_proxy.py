"""A proxy with every fault that a proxy can have, one request at a time."""

from __future__ import annotations

import http.client
import json
import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

PASS = "pass"
"""Do what a proxy should."""
REPEAT = "repeat"
"""Answer from memory: the first answer that passed."""
STRIP = "strip"
"""Drop the nonce, in the header and in the document."""
STRIP_HEADER = "strip header"
"""Drop the nonce of the header alone."""
FORGE = "forge"
"""Answer from memory, with the nonce of the request that is asked."""
OLD = "old"
"""Pass, with an Age of 700 seconds."""
YOUNG = "young"
"""Pass, with an Age of 0, as Varnish has it in what it does not keep."""
REWRITE = "rewrite"
"""Pass, without the headers that forbid to keep it, and with a validator."""
CLOSE = "close"
"""Close the connection without asking anybody."""
LOSE = "lose"
"""Ask the service, and close the connection without an answer."""
TRUNCATE = "truncate"
"""Send half of the document, and close."""
HOLD = "hold"
"""Pass, after `release` was set."""
GARBAGE = "garbage"
"""Say 200 and something that is no JSON object."""


@dataclass(frozen=True)
class Say:
    """Answer in the place of the service."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"<h1>a proxy's page</h1>"


Fault = str | Say


@dataclass(frozen=True)
class Asked:
    """A request that arrived here."""

    method: str
    nonce: str
    count: int
    headers: dict[str, str]


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Proxy:
    """Listens on a port of 127.0.0.1 and forwards to another.

    `plan` holds what to do with the next requests, `always` what to do with all that follow.
    """

    VIA = "1.1 faulty"

    def __init__(self, port: int) -> None:
        self.plan: deque[Fault] = deque()
        self.always: Fault = PASS
        self.asked: list[Asked] = []
        self.answers: list[bytes] = []
        """The documents of the service, in the order in which they came."""
        self.release = threading.Event()
        self._origin = port
        self._kept: _Answer | None = None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes; the second would wait for 40 ms.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                proxy._handle(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        query = parse_qs(urlsplit(handler.path).query)
        nonce = query.get("nonce", [""])[0]
        asked_for = query.get("range", ["0"])[0]
        count = int(asked_for) if asked_for.isdigit() else 0
        fault = self.plan.popleft() if self.plan else self.always
        self.asked.append(Asked(handler.command, nonce, count, dict(handler.headers)))
        if fault == CLOSE:
            handler.close_connection = True
            return
        if isinstance(fault, Say):
            self._send(handler, _Answer(fault.status, list(fault.headers), fault.body))
            return
        if fault == HOLD:
            assert self.release.wait(60)
        if fault in (REPEAT, FORGE) and self._kept is not None:
            answer = self._kept
            if fault == FORGE:
                document = {**json.loads(answer.body), "nonce": nonce}
                headers = [
                    (name, nonce if name == "X-Request-Nonce" else value)
                    for name, value in answer.headers
                ]
                answer = _Answer(answer.status, headers, json.dumps(document).encode())
            self._send(handler, answer)
            return
        key = handler.headers.get("Idempotency-Key")
        answer = self._ask(handler.command, handler.path, body, key)
        if fault == LOSE:
            handler.close_connection = True
        elif fault == TRUNCATE:
            self._send(handler, answer, len(answer.body) // 2)
            handler.close_connection = True
        elif fault == GARBAGE:
            self._send(handler, _Answer(200, answer.headers, b"[1, 2"))
        elif fault in (OLD, YOUNG):
            age = ("Age", "700" if fault == OLD else "0")
            self._send(handler, _Answer(answer.status, [*answer.headers, age], answer.body))
        elif fault == REWRITE:
            keep = [pair for pair in answer.headers if pair[0] not in ("Cache-Control", "Vary")]
            more = [("Cache-Control", "public, max-age=60"), ("ETag", '"1"')]
            self._send(handler, _Answer(answer.status, [*keep, *more], answer.body))
        elif fault in (STRIP, STRIP_HEADER):
            headers = [pair for pair in answer.headers if pair[0] != "X-Request-Nonce"]
            document = json.loads(answer.body)
            if fault == STRIP:
                document.pop("nonce", None)
            self._send(handler, _Answer(answer.status, headers, json.dumps(document).encode()))
        else:
            if self._kept is None:
                self._kept = answer
            self._send(handler, answer)

    def _ask(self, method: str, path: str, body: bytes, key: str | None) -> _Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._origin, timeout=60)
        try:
            headers = {} if key is None else {"Idempotency-Key": key}
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            content = response.read()
            self.answers.append(content)
            keep = [
                (name, value)
                for name, value in response.getheaders()
                if name.lower() not in ("content-length", "connection", "transfer-encoding")
            ]
            return _Answer(response.status, keep, content)
        finally:
            connection.close()

    def _send(
        self, handler: BaseHTTPRequestHandler, answer: _Answer, length: int | None = None
    ) -> None:
        try:
            handler.send_response_only(answer.status)
            names = {name.lower() for name, _value in answer.headers}
            if "server" not in names:
                handler.send_header("Server", "faulty/1")
            handler.send_header("Via", self.VIA)
            for name, value in answer.headers:
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(answer.body)))
            handler.end_headers()
            handler.wfile.write(answer.body[:length])
        except OSError:
            # The client has hung up, as it may.
            handler.close_connection = True
