"""Real caching proxies in front of the real service: no ID is used twice unnoticed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import quote, urlsplit

import pytest
import requests
import servers

from caches import proxies
from caches.controls import Controls
from caches.report import Row
from uniqueid_client import CachedResponseError, Client, Range

COUNT = 20
"""Requests of a kind, one after the other, and again at the same time."""
THREADS = 10

CELLS = [(cache, settings) for cache in proxies.CACHES for settings in cache.settings]
REPEATING_GET = {
    (proxies.Nginx, proxies.Nginx.FORCED),
    (proxies.Varnish, proxies.Varnish.FORCED),
    (proxies.Varnish, proxies.Varnish.BLIND),
    (proxies.HAProxy, proxies.HAProxy.REWRITING),
}
"""No header can stop these: the operator has told them to keep everything, or removes the
headers."""
REPEATING_POST = {(proxies.Varnish, proxies.Varnish.BLIND)}
REPEATING_CLIENT = {(proxies.Varnish, proxies.Varnish.BLIND)}
"""The client cannot get around these, whatever it tries."""


@pytest.fixture(params=CELLS, ids=lambda cell: f"{cell[0].name}-{cell[1]}")
def cell(request: pytest.FixtureRequest) -> tuple[type[proxies.Cache], str]:
    """Each proxy with each of its settings."""
    cache: tuple[type[proxies.Cache], str] = request.param
    return cache


@pytest.fixture
def cache(
    cell: tuple[type[proxies.Cache], str], service: servers.Service, controls: Controls
) -> Iterator[proxies.Cache]:
    """One that runs."""
    kind, settings = cell
    proxy = kind(settings, service.port, controls.port)
    with servers.running(proxy):
        yield proxy


def ask(method: str, url: str, nonce: str | None = None) -> requests.Response:
    """One plain request, as of a consumer that knows nothing of caches."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {} if nonce is None else {"X-Request-Nonce": nonce}
        return session.request(method, url, headers=headers, timeout=60)


def starts(method: str, url: str, threads: int = 1) -> list[int]:
    """What identical requests got."""

    def start(_number: int) -> int:
        response = ask(method, url)
        assert response.status_code == 200, response.text
        return int(response.json()["startIndex"])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(start, range(COUNT)))


def repeated(values: list[int]) -> int:
    return len(values) - len(set(values))


def errors_repeated(method: str, url: str, status: int) -> int:
    """How many of identical requests got another error than the one made for them."""
    wrong = 0
    for number in range(COUNT):
        nonce = f"nonce {number}"
        response = ask(method, url, nonce)
        got = (response.status_code, response.headers.get("X-Request-Nonce"))
        wrong += got != (status, nonce)
    return wrong


def set_counter(service: servers.Service, mode: str, sql: str) -> None:
    """Change a counter behind the service's back."""
    path = urlsplit(service.database_url).path
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        database.execute(f'UPDATE uniqueindex SET "index" = {sql} WHERE id = ?', (mode,))


def failures_outlived(cache: proxies.Cache, service: servers.Service, mode: str) -> int:
    """How many requests got a 503 made for another, or after the service had recovered."""
    path = f"/getid?range=1&mode={quote(mode)}"
    service.allocate(mode, 1)
    set_counter(service, mode, '"index" - 1')
    assert service.get(path)[0] == 503
    wrong = errors_repeated("GET", cache.url + path, 503)
    wrong += errors_repeated("POST", cache.url + path, 503)
    set_counter(service, mode, '"index" + 1000')
    servers.wait_until(lambda: service.get(path)[0] == 200, "the service to recover")
    return wrong + sum(ask("GET", cache.url + path).status_code != 200 for _ in range(5))


def client_ranges(
    url: str, method: str, mode: str
) -> tuple[list[Range], list[CachedResponseError]]:
    """What users of the client got: one after the other, at the same time, and as iterator."""
    ranges: list[Range] = []
    refusals: list[CachedResponseError] = []
    with Client(url, method=method, timeout=60, attempts=3) as client:

        def one(_number: int) -> None:
            try:
                ranges.append(client.get_range(mode, 3))
            except CachedResponseError as error:
                refusals.append(error)

        for number in range(COUNT):
            one(number)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(one, range(COUNT)))
        ids = client.ids(mode)
        try:
            ranges += [Range(mode, id, id) for id, _ in zip(ids, range(100), strict=False)]
        except CachedResponseError as error:
            refusals.append(error)
    return ranges, refusals


def probe(url: str) -> tuple[int, dict]:
    """Exit status and answer of the command that an operator runs."""
    result = subprocess.run(
        [str(servers.BIN / "pacifica-uniqueid-client"), "probe", "--url", url, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def test_no_cache_makes_a_duplicate_that_nobody_notices(
    cell: tuple[type[proxies.Cache], str],
    cache: proxies.Cache,
    service: servers.Service,
    table: list[Row],
) -> None:
    """Headers stop every cache that heeds any; the client stops or notices the others."""
    control = cache.control if cache.honest else "no-store"
    row = Row(
        cache.name,
        cache.chosen,
        repeated(starts("GET", f"{cache.url}/control/{control}?range=1&mode=m")),
    )
    table.append(row)
    mode = f"{cache.name}: {cache.chosen}"
    plain = f"{cache.url}/getid?range=2&mode={quote(mode)}"
    row.get = repeated(starts("GET", plain))
    row.get_concurrent = repeated(starts("GET", plain + "&x=1", THREADS))
    row.post = repeated(starts("POST", plain + "&x=2"))
    row.post_concurrent = repeated(starts("POST", plain + "&x=3", THREADS))
    refused = f"{cache.url}/getid?range=none&mode={quote(mode)}"
    row.errors = errors_repeated("GET", refused, 400) + errors_repeated("POST", refused, 400)
    row.errors += failures_outlived(cache, service, "503 " + mode)
    ranges, refusals = [], []
    for method in ("POST", "GET"):
        got, refusal = client_ranges(cache.url, method, "client " + mode)
        ranges += got
        refusals += refusal
    row.client = repeated([id for one in ranges for id in one])
    row.outcome = "raises" if refusals else "gets its IDs"
    status, report = probe(cache.url)

    # Or the test would show nothing.
    assert row.control == COUNT - 1, "this proxy keeps nothing at all"
    if cell in REPEATING_GET:
        assert row.get == COUNT - 1
        assert row.get_concurrent > 0
    else:
        assert (row.get, row.get_concurrent, row.errors) == (0, 0, 0)
    if cell in REPEATING_POST:
        assert row.post == COUNT - 1
        assert row.post_concurrent > 0
    else:
        assert (row.post, row.post_concurrent) == (0, 0)
    assert row.client == 0
    if cell in REPEATING_CLIENT:
        assert len(refusals) == 2 * (2 * COUNT + 1) - len(ranges)
        assert len(ranges) <= 1, "only the first answer can be new"
        for error in refusals:
            assert error.via is not None
            assert cache.name.lower() in error.via
            assert error.via in str(error)
    else:
        assert refusals == []
        assert len(ranges) == 2 * (2 * COUNT + 100)
    assert (status, report["cached"]) == ((1, True) if cell in REPEATING_GET else (0, False)), (
        report
    )


def test_the_answers_on_the_wire_carry_the_headers(service: servers.Service) -> None:
    """uWSGI adds nothing that weakens them, and takes nothing away."""
    from uniqueid.web.caching import NEVER_CACHED

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    mode = "on the wire"
    seen = set()

    def check(method: str, target: str, status: int, body: bytes | str = b"") -> None:
        response = requests.request(
            method,
            service.url + target,
            headers={**(form if body else {}), "X-Request-Nonce": "wire"},
            data=body,
            timeout=60,
        )
        assert response.status_code == status, response.text
        seen.add(status)
        for name, value in NEVER_CACHED:
            assert response.headers.get(name) == value, (target, name)
        assert response.headers["X-Request-Nonce"] == "wire"
        assert not {"ETag", "Last-Modified", "Age"} & set(response.headers)

    check("GET", "/", 200)
    check("HEAD", "/", 200)
    check("GET", "/livez", 200)
    check("GET", "/metrics", 200)
    check("GET", "/getid?range=1&mode=on+the+wire", 200)
    check("GET", "//getid/?range=1&mode=m", 200)
    check("POST", "/getid", 200, "range=1&mode=m")
    check("GET", "/getid?range=0&mode=m", 200)
    check("GET", "/getid?range=-1&mode=m", 400)
    check("GET", "/nowhere", 404)
    check("GET", "/%FF", 404)
    check("HEAD", "/getid?range=1&mode=m", 405)
    check("DELETE", "/getid?range=1&mode=m", 405)
    set_counter(service, mode, str(2**63 - 2))
    check("GET", "/getid?range=5&mode=on+the+wire", 409)
    check("POST", "/getid", 413, "x" * 9000)
    check("GET", "/getid?mode=" + "m" * 9000, 414)
    set_counter(service, mode, "1")
    service.get("/getid?range=1&mode=on+the+wire")
    check("GET", "/getid?range=1&mode=on+the+wire", 503)
    check("GET", "/readyz", 503)
    set_counter(service, mode, "1000")
    servers.wait_until(lambda: service.get("/readyz")[0] == 200, "the service to recover")
    assert seen == {200, 400, 404, 405, 409, 413, 414, 503}
