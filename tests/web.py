"""The application in process, behind the validator of the WSGI standard."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from uniqueid.web.caching import NEVER_CACHED


@dataclass
class Response:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(app: Any, method: str, target: str, body: bytes | None = None, **environ: str) -> Response:
    """One request; `environ` overrides what a server would set."""
    path, _, query = target.partition("?")
    values: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path.encode().decode("latin-1"),
        "SCRIPT_NAME": "",
        "QUERY_STRING": query.encode().decode("latin-1"),
    }
    if body is not None:
        values["wsgi.input"] = io.BytesIO(body)
        values["CONTENT_LENGTH"] = str(len(body))
        values["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
    values.update(environ)
    setup_testing_defaults(values)
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        assert exc_info is None
        started.append((status, headers))
        return lambda data: None

    result = validator(app)(values, start_response)
    try:
        content = b"".join(result)
    finally:
        result.close()
    (status, headers) = started[-1]
    assert len({name.lower() for name, _ in headers}) == len(headers)
    return Response(int(status[:3]), dict(headers), content)


def assert_problem(response: Response, status: int, type: str) -> None:
    """A problem document of RFC 9457 with the legacy service's keys, which no cache keeps."""
    assert response.status == status
    assert response.headers["Content-Type"] == "application/problem+json"
    document = response.json
    assert document["type"] == type
    assert document["status"] == status
    assert document["title"]
    assert document["message"] == document["detail"] != ""
    assert "Traceback" not in response.body.decode()
    assert_never_cached(response)


def assert_never_cached(response: Response) -> None:
    assert {name: response.headers.get(name) for name, _ in NEVER_CACHED} == dict(NEVER_CACHED)
    assert not {"etag", "last-modified"} & {name.lower() for name in response.headers}
