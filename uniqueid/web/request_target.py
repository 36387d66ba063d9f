"""The target of a request, brought to the one form that has a route."""

from __future__ import annotations

import re
from collections.abc import Iterable

from uniqueid.web.problems import WSGI, Environ, StartResponse, http_problem

# With nginx in front, and its uwsgi_pass, this is the client's.
_PROTOCOLS = frozenset({"HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/3"})
# Of a request target in absolute-form (RFC 9112, 3.2.2).
_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)


class RequestTarget:
    """WSGI middleware: rejects what is no HTTP request, and normalises the path."""

    def __init__(self, app: WSGI) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request.

        :raises ProblemResponse: for one that cannot be served.
        """
        path = environ.get("PATH_INFO", "")
        if environ.get("SERVER_PROTOCOL", "HTTP/1.1") not in _PROTOCOLS:
            # uWSGI ends the target at the first blank, and takes what follows for the protocol.
            raise http_problem(400, "Bad Request", "the target has a blank in it")
        if not path.startswith("/") and (origin := _ORIGIN.match(path)) is not None:
            path = environ["PATH_INFO"] = path[origin.end() :] or "/"
        if not environ.get("REQUEST_METHOD") or not path.startswith("/"):
            raise http_problem(400, "Bad Request", "this is no HTTP request")
        try:
            if not path.isascii():
                path.encode("latin-1").decode("utf-8")
        except UnicodeError:
            # Bottle drops such bytes, and would respond for the path that is left.
            raise http_problem(404, "Not Found", "the path is not UTF-8") from None
        if path != "/" and (path.startswith("//") or path.endswith("/")):
            # Consumers are configured with a URL that may end in a slash, and add their own.
            environ["PATH_INFO"] = "/" + path.strip("/")
        return self._app(environ, start_response)
