"""An origin which, unlike the service, does not say that its answers must not be kept.

What a proxy repeats of it proves that the proxy keeps answers at all.
"""

from __future__ import annotations

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

HEADERS = {
    "bare": {},
    "lifetime": {"Cache-Control": "max-age=600"},
    "no-store": {"Cache-Control": "no-store, max-age=600"},
}
"""By name, the headers of `/control/NAME`."""


class Controls:
    """Counts, at a port of 127.0.0.1."""

    def __init__(self) -> None:
        numbers = itertools.count(1)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes; the second would wait for 40 ms.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                name = self.path.partition("?")[0].rpartition("/")[2]
                body = json.dumps({"startIndex": next(numbers)}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                for key, value in HEADERS[name].items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Proxies look whether the port is open, and hang up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.port = self._server.server_port

    def __enter__(self) -> Controls:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
