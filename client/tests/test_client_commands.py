"""The commands `get` and `probe`: against the real service, and through a faulty proxy."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import faulty_proxy
import pytest
import servers

from uniqueid_client import probe
from uniqueid_client.__main__ import main as client_main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs pacifica-uniqueid-client; exit status, output and errors."""

    def main(*arguments: str) -> tuple[int, str, str]:
        try:
            status = client_main(arguments)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return main


# -- getid -------------------------------------------------------------------------------------


def test_get_prints_first_and_last(service: servers.Service, run: Run) -> None:
    """Two numbers, for a shell's `read`; each call has a range of its own."""
    ask = ("get", "--url", service.url, "--mode", "shell", "--range", "10")
    assert run(*ask) == (0, "1 10\n", "")
    assert run(*ask) == (0, "11 20\n", "")


def test_get_prints_json(service: servers.Service, run: Run) -> None:
    """With the names of the HTTP answer."""
    status, out, _ = run("get", "--url", service.url, "--mode", "jsön", "--range", "2", "--json")
    assert status == 0
    assert json.loads(out) == {"mode": "jsön", "startIndex": 1, "endIndex": 2}


@pytest.mark.parametrize(
    ("url", "mode", "count", "line"),
    [
        ("nowhere", "m", "1", "url is 'nowhere': give http://HOST"),
        ("http://127.0.0.1:1", "", "1", "mode is '': give a name of 1 to 255 characters"),
        ("http://127.0.0.1:1", "m", "0", "argument --range: '0': give a whole number from 1 to 92"),
        (
            "http://127.0.0.1:1",
            "m",
            "ten",
            "argument --range: 'ten': give a whole number from 1 to 92",
        ),
    ],
)
def test_bad_arguments_get_a_line(run: Run, url: str, mode: str, count: str, line: str) -> None:
    """It names what is wrong, its value and what is allowed; the exit status is 2."""
    status, out, err = run("get", "--url", url, "--mode", mode, "--range", count)
    assert (status, out) == (2, "")
    assert line in err.splitlines()[-1]
    assert "Traceback" not in err


def test_get_says_what_the_service_says(service: servers.Service, run: Run) -> None:
    """A refusal is one line and exit status 1."""
    status, out, err = run("get", "--url", service.url, "--mode", "m", "--range", "2000000000")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "answered 400: range is '2000000000': give one whole number" in err


def test_get_refuses_a_kept_answer(proxy: faulty_proxy.Proxy) -> None:
    """It prints no ID of it, and names the proxy."""
    proxy.always = faulty_proxy.OLD
    result = subprocess.run(
        [str(servers.BIN / "pacifica-uniqueid-client"), "get", "--url", proxy.url]
        + ["--mode", "m", "--range", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "Via: 1.1 faulty" in line


# -- probe -------------------------------------------------------------------------------------


def test_probe_finds_nothing_where_nothing_is(service: servers.Service, run: Run) -> None:
    """Straight at the service: each request of each kind has an answer of its own."""
    before = service.allocate("file", 1)
    status, out, err = run("probe", "--url", service.url)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{service.url}/getid, mode '{probe.MODE}'"
    counts = [re.findall(r"  +(\d+)(?=  )", line) for line in lines[3:9]]
    assert counts == [["20", "0", "0", "0", "0"]] * 6
    assert [line.count(" ms") for line in lines[3:9]] == [3] * 6
    assert "HTTP version: HTTP/1.1" in lines
    assert "warning" not in out
    assert lines[-1] == "Every request got a response of its own: no cache was found."
    assert service.allocate("file", 1) == (before[1] + 1, before[1] + 1)


def test_probe_finds_a_cache(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """Exit status 1, and who was on the way."""
    proxy.always = faulty_proxy.REPEAT
    status, out, err = run("probe", "--url", proxy.url)
    assert (status, err) == (1, "")
    assert "CACHED: GET, sequential: 19 of 20 answers had IDs of an earlier response" in out
    assert "CACHED: POST, 10 concurrent: 20 of 20 answers had IDs of an earlier response" in out
    assert "Via: 1.1 faulty" in out
    assert out.splitlines()[-1].startswith(
        "A proxy or cache in front of the service repeats responses"
    )


def test_probe_finds_one_kept_answer_of_many(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """A cache that is rarely hit is one."""
    proxy.plan.extend([faulty_proxy.PASS] * 7 + [faulty_proxy.REPEAT])
    status, out, _ = run("probe", "--url", proxy.url, "--json")
    report = json.loads(out)
    assert status == 1
    assert report["cached"] is True
    assert [group["repeated"] for group in report["groups"]] == [1, 0, 0, 0, 0, 0]


def test_probe_finds_kept_errors(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """A refusal that is made for another request shows by its nonce."""
    refusal = (("X-Request-Nonce", "another"),)
    proxy.plan.extend([faulty_proxy.PASS] * 10 + [faulty_proxy.Say(400, refusal)] * 2)
    status, out, _ = run("probe", "--url", proxy.url, "--requests", "2", "--json")
    report = json.loads(out)
    assert status == 1
    assert [group["wrong_nonce"] for group in report["groups"]] == [0, 0, 0, 0, 0, 2]
    assert report["proofs"] == [
        "GET that is rejected (400): 2 of 2 answers had the nonce of another request"
    ]


def test_probe_finds_an_age(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """An answer older than its request was kept."""
    proxy.always = faulty_proxy.OLD
    status, out, _ = run("probe", "--url", proxy.url, "--json")
    report = json.loads(out)
    assert status == 1
    assert [group["aged"] for group in report["groups"]] == [20] * 6
    assert report["headers"]["Age"] == ["700"]


def test_probe_takes_an_age_of_zero_for_what_it_is(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """Varnish has it in answers that it passes on."""
    proxy.always = faulty_proxy.YOUNG
    status, out, _ = run("probe", "--url", proxy.url, "--json")
    assert status == 0
    assert json.loads(out)["headers"]["Age"] == ["0"]


def test_probe_warns_of_headers_that_do_not_arrive(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """They keep caches further away from keeping answers."""
    proxy.always = faulty_proxy.REWRITE
    status, out, _ = run("probe", "--url", proxy.url)
    assert status == 0
    assert "warning: headers of the service are missing: Vary\n" in out
    assert "warning: headers of the service were changed: Cache-Control: public, max-age=60" in out
    assert "warning: headers that help a cache were added: ETag\n" in out


def test_probe_warns_where_no_nonce_comes_back(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """Without it a client cannot tell."""
    proxy.always = faulty_proxy.STRIP_HEADER
    status, out, _ = run("probe", "--url", proxy.url)
    assert status == 0
    assert "warning: no nonce came back" in out


def test_probe_sends_requests_at_the_same_time(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """The concurrent ones are all on the way before the first is answered."""
    proxy.plan.extend([faulty_proxy.PASS] * 4 + [faulty_proxy.HOLD] * 4)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run, "probe", "--url", proxy.url, "--requests", "4", "--concurrency", "4"
        )
        servers.wait_until(lambda: len(proxy.asked) == 8, "four requests at once")
        proxy.release.set()
        assert running.result(60)[0] == 0


def test_probe_without_an_answer_says_why(run: Run) -> None:
    """One line, and exit status 1."""
    url = f"http://127.0.0.1:{servers.free_port()}"
    status, out, err = run("probe", "--url", url, "--requests", "2")
    assert (status, out) == (1, "")
    assert err == f"pacifica-uniqueid-client: {url}/getid gave no answer: 12 x ConnectionError\n"


def test_probe_that_could_not_look_does_not_say_that_all_is_well(
    proxy: faulty_proxy.Proxy, run: Run
) -> None:
    """A proxy that refuses POST leaves the question open, and the exit status says so."""
    refused = [faulty_proxy.Say(403)] * 4
    proxy.plan.extend([faulty_proxy.PASS] * 4 + refused + [faulty_proxy.PASS] * 4)
    status, out, _ = run("probe", "--url", proxy.url, "--requests", "2")
    assert status == 1
    assert "UNKNOWN: POST, sequential: 0 answers are too few (2 x status 403)" in out
    assert "Every request got a response of its own" not in out


def test_probe_repeats_why_the_service_refuses(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """Where only some modes are answered, the operator is told to name one."""
    body = json.dumps({"detail": "mode is 'uniqueid-probe': only file"}).encode()
    proxy.always = faulty_proxy.Say(403, body=body)
    status, out, err = run("probe", "--url", proxy.url, "--requests", "2")
    assert (status, out) == (1, "")
    assert "gave no answer: 12 x status 403: mode is 'uniqueid-probe': only file\n" in err


def test_probe_counts_what_failed_on_the_way(proxy: faulty_proxy.Proxy, run: Run) -> None:
    """A few failures do not hide the rest."""
    proxy.plan.extend([faulty_proxy.PASS, faulty_proxy.Say(502), faulty_proxy.CLOSE])
    status, out, _ = run("probe", "--url", proxy.url)
    assert status == 0
    assert "GET, sequential: failed were 1 x status 502, 1 x ConnectionError" in out


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("--requests", "1", "argument --requests: '1': give a whole number from 2 to 10000"),
        ("--requests", "²", "argument --requests: '²': give a whole number from 2 to 10000"),
        ("--concurrency", "201", "argument --concurrency: '201': give a whole number from 2 to"),
        ("--timeout", "0", "timeout is 0.0: give a number of seconds above 0, at most 86400"),
        ("--mode", "m" * 256, "give a name of 1 to 255 characters"),
        ("--url", "ftp://x", "url is 'ftp://x': give http://HOST"),
    ],
)
def test_bad_options_of_probe_get_a_line(run: Run, option: str, value: str, line: str) -> None:
    """It names the option, its value and what is allowed."""
    status, out, err = run("probe", "--url", "http://127.0.0.1:1", option, value)
    assert (status, out) == (2, "")
    assert line in err.splitlines()[-1]
    assert "Traceback" not in err
