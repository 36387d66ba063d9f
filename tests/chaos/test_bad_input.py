"""Bad input at volume against the running uWSGI, byte by byte past every HTTP library."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import servers
from fault_scenario import NOTES, connect, worker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = {"sqlite": 4000, "mariadb": 1500, "postgresql": 1500}
"""Most of SQLite's never reach the database; most of the others' are made to."""
SLOW = 80
"""Clients which never send the whole of their request: more than there are threads."""

_LONG = b"<long>"
"""Stands for more octets than uWSGI's buffer has; written out when it is sent."""

# What would end the request's line or a header is left to `broken`.
_octets = st.binary(max_size=40).map(lambda raw: bytes(o for o in raw if o not in b"\r\n\0 "))
_escaped = st.binary(max_size=20).map(lambda raw: b"".join(b"%%%02x" % octet for octet in raw))
_text = (
    st.text(max_size=300)
    .map(lambda text: text.encode("utf-8", "surrogatepass"))
    .map(lambda raw: b"".join(b"%%%02X" % octet for octet in raw))
)
_numbers = st.one_of(
    st.integers(0, 50),
    st.integers(-5, 2**65),
    st.sampled_from([2**63, 2**63 - 1, 10**9, 10**9 + 1, 10**5000]),
).map(lambda number: b"%d" % number if abs(number) < 2**70 else b"9" * 5000)
_values = st.one_of(
    _numbers, _octets, _escaped, _text,
    st.sampled_from([b"file", b"m" * 255, b"m" * 256, b"", b"%", b"%zz", b"%00", b"+", b"1.0"]),
    st.sampled_from([b"1e3", b"0x10", b"%D9%A1", b"1_0", b"%201", b"None", b"';--", b"%F0%9F"]),
)  # fmt: skip
_names = st.sampled_from(
    [b"range", b"mode", b"mode", b"range", b"Range", b"r%61nge", b"", b"nonce"]
)
_queries = st.lists(
    st.tuples(_names, st.sampled_from([b"=", b"", b"=="]), _values).map(b"".join), max_size=5
).map(b"&".join)
_sound = st.builds(
    lambda count, mode: b"range=%d&mode=%s" % (count, mode), st.integers(0, 50), _text | _values
)
_methods = st.sampled_from(
    [b"GET"] * 6
    + [b"POST"] * 4
    + [b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"get"]
    + [b"\xff", b"X" * 99]
)  # fmt: skip
_paths = st.one_of(
    st.sampled_from([b"/getid"] * 6 + [b"/getid/", b"//getid", b"/getid//", b"/GETID", b"*", b""]),
    st.sampled_from(
        [b"/", b"/livez", b"/readyz", b"/healthz", b"/metrics", b"/%67etid", b"/../getid"]
    ),
    _octets.map(lambda raw: b"/" + raw.replace(b"?", b"")),
)
_headers = st.lists(
    st.one_of(
        st.tuples(_octets, _octets).map(b": ".join),
        st.sampled_from(
            [
                b"Content-Length: -1", b"Content-Length: 99999999999", b"Content-Length: x",
                b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 8193",
                b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Expect: 100-continue",
                b"Content-Type: multipart/form-data; boundary=x", b"Content-Type: text/html",
                b"Content-Type: application/x-www-form-urlencoded", b"Connection: Upgrade",
                b"Range: bytes=0-0", b"If-None-Match: *", b"X-Long: " + _LONG, b":",
                b"Host: \xff\xfe", b"no colon", b"Cookie: " + b"a=b;" * 500,
            ]
        ),
    ),
    max_size=4,
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request as it goes over the wire: right, wrong, cut short, or no HTTP at all."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.binary(min_size=1, max_size=500))
    query = draw(st.one_of(_sound, _queries, _queries))
    target = draw(_paths) + draw(st.sampled_from([b"?", b"?", b"?", b"", b"??", b"#"])) + query
    version = draw(st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/9", b""]))
    headers = [b"Host: localhost", *draw(_headers)]
    body = draw(
        st.sampled_from([b"", b"", b"range=1", b"range=2&mode=form", b"0\r\n\r\n"]) | _queries
    )
    if body and draw(st.booleans()):
        headers += [
            b"Content-Length: %d" % len(body),
            b"Content-Type: application/x-www-form-urlencoded",
        ]
    line = b" ".join([draw(_methods), target, version])
    whole = b"\r\n".join([line, *headers, b"", body])
    return whole[: draw(st.integers(0, len(whole)))] if kind == 1 else whole


def send(port: int, request: bytes) -> bytes:
    """Send bytes, say that there are no more, and read what comes until the end."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=servers.START_TIMEOUT) as connection:
        try:
            connection.sendall(request.replace(_LONG, b"x" * 40_000))
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            raise
        except OSError:
            # Closed by the server with some of the request unread.
            pass
    return received


_ODD = "\u00df\u0130\u0131\uff21\u0301\U0001f600 aA'\"`;%_\\"
"""Letters that databases fold, and what SQL, LIKE and a shell make something of."""


@st.composite
def malformed_modes(draw: st.DrawFn) -> bytes:
    """A request in good order, whose mode may be anything that a counter can be called."""
    mode = draw(
        st.text(min_size=1, max_size=255) | st.text(alphabet=_ODD, min_size=1, max_size=9)
    ).encode("utf-8", "surrogatepass")
    query = b"range=%d&mode=" % draw(st.integers(1, 50)) + b"".join(b"%%%02X" % o for o in mode)
    return b"%s /getid?%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (
        draw(st.sampled_from([b"GET", b"POST"])),
        query,
    )


_TAKEN = {
    "sqlite": 'SELECT total("index" - 1) FROM uniqueindex',
    "mariadb": "SELECT COALESCE(SUM(`index` - 1), 0) FROM uniqueindex",
    "postgresql": 'SELECT COALESCE(SUM("index" - 1), 0) FROM uniqueindex',
}


def taken(kind: str, database: Any) -> int:
    """How many IDs were taken from all counters."""
    with closing(database.cursor()) as cursor:
        cursor.execute(_TAKEN[servers.sql_of(kind)])
        (total,) = cursor.fetchone()
    # Ends the transaction that a driver may have begun, which would see nothing new.
    database.rollback()
    return int(total)


def test_no_request_kills_the_service_or_takes_ids_without_an_answer(
    kind: str, new_url: Callable[[str], str]
) -> None:
    """Every answer is a declared one; what was not answered with a range took nothing."""
    url = new_url(kind)
    service = servers.Service(url, max_modes="100000")
    with servers.running(service), closing(connect(url)) as database:
        service.allocate("first", 1)
        throw(kind, service, database)


def throw(kind: str, service: servers.Service, database: Any) -> None:
    """Send the requests one by one and compare answers and counters."""
    pid = worker(service)
    seen: dict[int, int] = {}
    examples = EXAMPLES[servers.sql_of(kind)]
    wanted = requests() if kind == "sqlite" else requests() | malformed_modes() | malformed_modes()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(wanted)
    def try_one(request: bytes) -> None:
        before = taken(kind, database)
        # An interim response may come first (RFC 9110, 15.2.1).
        received = send(service.port, request).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        head, _, body = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/\S* ([0-9]{3}) ", head)
        assert b"Traceback" not in received
        got = 0
        if status is None:
            # uWSGI closes the connection on what is no HTTP.
            assert received == b""
        else:
            code = int(status[1])
            seen[code] = seen.get(code, 0) + 1
            assert code in (200, 400, 404, 405, 408, 411, 413, 414, 415, 431), received[:2000]
            if b"problem+json" in head and body:
                problem = json.loads(body)
                assert problem["status"] == code
                assert problem["message"]
            elif code == 200 and b"startIndex" in body:
                answer = json.loads(body)
                if answer["startIndex"] > 0:
                    got = answer["endIndex"] - answer["startIndex"] + 1
        assert taken(kind, database) - before == got

    try_one()
    statuses = ", ".join(f"{code}: {seen[code]}" for code in sorted(seen))
    NOTES.append(f"bad input, {examples} requests, {kind}, answers by status: {statuses}")
    # Not everything was refused, and not everything was accepted.
    assert {200, 400, 404, 405} <= seen.keys(), seen
    assert worker(service) == pid
    log = service.log.read_text(errors="replace")
    assert "Traceback" not in log
    assert service.get("/readyz")[0] == 200


def trickle(port: int, number: int) -> bytes:
    """A request that never ends, a piece a second or nothing at all; what comes until the end."""
    head = b"GET /getid?range=1&mode=slow HTTP/1.1\r\nHost: x\r\nX-Slow: "
    body = (
        b"POST /getid?range=1&mode=slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    begin, more = [(head, b"x"), (body, b"x"), (head, b""), (body, b""), (b"", b"")][number % 5]
    received = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            connection.settimeout(1)
            connection.sendall(begin)
            for _second in range(200):
                try:
                    chunk = connection.recv(65536)
                except TimeoutError:
                    connection.sendall(more)
                    continue
                if not chunk:
                    return received
                received += chunk
        except ConnectionError:
            # Cut with some of what was sent unread.
            return received
    raise AssertionError(f"client {number} still holds its connection")


def test_clients_that_never_end_their_request_are_cut_off(tmp_path: Path) -> None:
    """More than there are threads, with the shipped time-outs: others are answered all the same.

    Not cut off is who has sent the whole of a request and waits for longer than that.
    """
    path = str(tmp_path / "db.sqlite3")
    service = servers.Service(f"sqlite:///{path}", request_timeout="50")
    with servers.running(service), ThreadPoolExecutor(SLOW + 1) as pool:
        pid = worker(service)
        assert service.allocate("patient", 1) == (1, 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = pool.submit(service.allocate, "patient", 3)
            servers.wait_until(
                lambda: service.metric("uniqueid_transaction_retries_total") > 0, "the wait"
            )
            slow = [pool.submit(trickle, service.port, number) for number in range(SLOW)]
            servers.wait_until(lambda: any(client.done() for client in slow), "the first cut", 120)
            assert service.get("/livez", timeout=120)[0] == 200
            other.execute("ROLLBACK")
        assert waiting.result(60) == (2, 4)
        assert service.allocate("patient", 1) == (5, 5)
        for client in slow:
            # An answer that refuses, or none; then the end.
            received = client.result(240)
            assert not received or re.match(rb"HTTP/1.1 40[08] ", received), received
        with closing(sqlite3.connect(path)) as database:
            assert taken("sqlite", database) == 5
        # uWSGI's harakiri ended no process either.
        assert worker(service) == pid
        assert service.get("/readyz")[0] == 200
