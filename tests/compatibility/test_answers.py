"""What both services answer to the same requests, and where docs/migrating.md says they differ."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servers
from servers import BIN

from compatibility import upstream
from compatibility.upstream import Site

Answer = tuple[int, Any]
MakeSite = Callable[[str, Path], Site]
REFUSED = {"startIndex": -1, "endIndex": -3}

SAME = (
    "/",
    "/getid?range=10&mode=file",
    "/getid?mode=file&range=1",
    "/getid/?range=2&mode=file",
    "/getid?range=3&mode=file&unknown=1&also",
    "/getid?range=1&mode=upload_job",
    "/getid?range=007&mode=upload_job",
    "/getid?range=0&mode=file",
    "/getid?range=0&mode=never%20seen",
    "/getid?range=1&mode=p%C3%A4th%20%E2%98%83",
    "/getid?range=1&mode=with+blanks+and%20blanks",
    "/getid?range=1&mode=with+blanks+and%20blanks",
    "/getid?range=1&mode=%27%3B%20DROP%20TABLE%20uniqueindex%3B%20--",
    "/getid?range=1&mode=-1",
    "/getid?range=1&mode=File",
    "/getid?range=1&mode=file%20",
    "/getid?range=1&mode=" + "m" * 255,
)
"""Requests with the same answer, status and JSON, in this order on an empty database."""

OTHER: tuple[tuple[str, str, Answer | int | None, int], ...] = (
    ("GET", "/getid", (200, REFUSED), 400),
    ("GET", "/getid?mode=a", (200, REFUSED), 400),
    ("GET", "/getid?range=-5&mode=a", (200, REFUSED), 400),
    ("GET", "/getid?range=1&mode=", (200, REFUSED), 400),
    ("GET", "/getid?range=1", (200, {"startIndex": 1, "endIndex": 1}), 400),
    ("GET", "/getid?range=&mode=a", 500, 400),
    ("GET", "/getid?range=ten&mode=a", 500, 400),
    ("GET", "/getid?range=1.0&mode=a", 500, 400),
    ("GET", "/getid?range=1&range=2&mode=a", 500, 400),
    ("GET", "/getid?range=2000000000&mode=b", 200, 400),
    ("GET", "/getid?range=%D9%A3&mode=c", 200, 400),
    ("GET", "/getid?range=1_0&mode=d", 200, 400),
    ("GET", "/getid?range=1&mode=a&mode=b", 500, 400),
    ("GET", "/getid?range=1&mode=%FF", 404, 400),
    ("GET", "/getid?range=1&mode=a%00b", 200, 400),
    ("HEAD", "/getid?range=1&mode=e", 200, 405),
    ("POST", "/getid?range=1&mode=f", 405, 200),
    ("GET", "//getid?range=1&mode=g", 404, 200),
    ("PUT", "/getid?range=1&mode=f", 405, 405),
    ("DELETE", "/", 405, 405),
    ("GET", "/nothing", 404, 404),
)
"""Method, target, what the legacy service answers, the status of this one. None: no answer."""


def ask(site: Site, method: str, target: str) -> Answer | None:
    """One request, with the target as it is; None when the connection breaks."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=servers.START_TIMEOUT)
    with contextlib.closing(connection):
        connection.putrequest(method, target)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        try:
            response = connection.getresponse()
        except (ConnectionError, http.client.HTTPException):
            return None
        assert response.version == 11
        body = response.read()
        return response.status, json.loads(body) if body else None


@pytest.fixture
def sites(make_site: MakeSite, tmp_path: Path) -> tuple[Site, Site]:
    """The legacy service and this one, each with an empty database."""
    found = []
    for name, package in (("old", upstream.old("0.5.1")), ("new", BIN)):
        site = make_site(f"sqliteext:///{tmp_path}/{name}.sqlite3", package)
        assert site.run("pacifica-uniqueid-cmd dbsync").returncode == 0
        site.start()
        found.append(site)
    return found[0], found[1]


def test_what_consumers_rely_on_is_answered_alike(sites: tuple[Site, Site]) -> None:
    """Status and JSON of every request that the legacy service meets are the same."""
    old, new = sites
    for target in SAME:
        expected = ask(old, "GET", target)
        assert expected is not None
        assert expected[0] == 200, (target, expected)
        assert ask(new, "GET", target) == expected, target


def test_what_differs_is_what_the_documentation_says(sites: tuple[Site, Site]) -> None:
    """Both answers of each request in the table of differences."""
    old, new = sites
    for method, target, before, after in OTHER:
        was, now = ask(old, method, target), ask(new, method, target)
        assert now is not None
        if before is None or isinstance(before, tuple):
            assert was == before, (method, target, was)
        else:
            assert was is not None
            assert was[0] == before, (method, target, was)
        assert now[0] == after, (method, target, now)
        if now[0] >= 400 and method != "HEAD":
            # The legacy service's keys are there; the traceback is not.
            assert now[1]["status"] == now[0]
            assert now[1]["message"]
            assert "Traceback" not in json.dumps(now[1])
    # Nothing that was refused has moved a counter.
    assert ask(new, "GET", "/getid?range=1&mode=a") == (200, {"startIndex": 1, "endIndex": 1})
    assert ask(new, "GET", "/getid?range=1&mode=e") == (200, {"startIndex": 1, "endIndex": 1})


def test_a_doubled_slash_reaches_the_service(sites: tuple[Site, Site]) -> None:
    """A consumer's URL may end in a slash."""
    _old, new = sites
    for path in ("//getid", "///getid/"):
        answer = ask(new, "GET", f"{path}?range=1&mode=path%2F{len(path)}")
        assert answer == (200, {"startIndex": 1, "endIndex": 1})
