"""A shortcut to one route."""

from __future__ import annotations

from collections.abc import Iterable

from bottle import Bottle

from uniqueid.web.problems import WSGI, Environ, Handler, StartResponse, respond


class FastRoute:
    """WSGI middleware in front of a Bottle application, for the GET of one path.

    Contract:

    1. The route is registered with Bottle, whose dispatch may serve every request. This component
       only saves its time: to find a handler and to make a response of its text takes Bottle as
       long as everything else in Python together.
    2. A GET of exactly the path is answered by the handler of that route, with the same response
       as through Bottle. Every other request is Bottle's.
    3. As soon as the application has a hook or a plug-in, every request is Bottle's, since these
       must see all of them.
    4. The handler raises nothing, and uses neither `bottle.request` nor `bottle.response`.

    :param app: the application.
    :param path: of the route.
    :param handler: of the route's GET.
    """

    def __init__(self, app: Bottle, path: str, handler: Handler) -> None:
        self._dispatch: WSGI = app.dispatch
        self._path = path
        self._handler = handler
        self._before, self._after = (app._hooks[f"{when}_request"] for when in ("before", "after"))
        self._plugins = app.plugins
        # Bottle's own.
        self._usual = len(app.plugins)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        if (
            environ["PATH_INFO"] == self._path
            and environ["REQUEST_METHOD"] == "GET"
            and not self._before
            and not self._after
            and len(self._plugins) == self._usual
        ):
            return respond(self._handler(environ), start_response)
        return self._dispatch(environ, start_response)
