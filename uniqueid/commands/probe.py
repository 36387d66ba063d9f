"""The commands that ask a running service over HTTP: ``getid`` and ``probe``."""

from __future__ import annotations

import argparse
import json
import math
import secrets
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from uniqueid.errors import MAX_ID, UniqueIDError

if TYPE_CHECKING:
    import requests

PROBE_MODE = "uniqueid-probe"
"""The counter that `probe` takes from; nobody else should."""

_CONSUMED = frozenset({"x-accel-expires", "x-accel-buffering", "surrogate-control"})
"""Headers which the proxy they are meant for takes out."""
_WITNESSES = ("Via", "Server", "X-Cache", "X-Cache-Status", "CF-Cache-Status", "Age")
_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
_UNUSABLE = 2


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put both commands beside the others."""
    command = commands.add_parser("getid", help="ask a running service for IDs")
    _add_url(command)
    command.add_argument("--mode", required=True, help="the name of the counter")
    command.add_argument(
        "--range",
        type=_whole(1, MAX_ID),
        required=True,
        metavar="N",
        help="how many IDs, 1 or more",
    )
    command.add_argument(
        "--key",
        metavar="KEY",
        help="what stands for this request: with it the same range is printed again",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(run=_guarded(getid))

    command = commands.add_parser(
        "probe",
        help="exit 1 if anything between here and a running service keeps answers",
        description="Send identical requests, one after the other and at the same time, and say"
        " whether each got an answer of its own. It takes about 100 IDs of a mode of its own.",
    )
    _add_url(command)
    command.add_argument(
        "--mode", default=PROBE_MODE, help="the counter to take from (default: %(default)s)"
    )
    command.add_argument(
        "--requests",
        type=_whole(2, 10_000),
        default=20,
        metavar="N",
        help="requests of each kind (default: %(default)s)",
    )
    command.add_argument(
        "--concurrency",
        type=_whole(2, 200),
        default=10,
        metavar="N",
        help="requests at the same time (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.set_defaults(run=_guarded(probe))


def getid(arguments: argparse.Namespace) -> int:
    """Print the first and the last ID of a range."""
    from uniqueid.client import Client, read_token

    token = None if arguments.token_file is None else read_token(arguments.token_file)
    with Client(arguments.url, timeout=arguments.timeout, token=token) as client:
        ids = client.get_range(arguments.mode, arguments.range, key=arguments.key)
    if arguments.json:
        answer = {"mode": ids.mode, "startIndex": ids.first, "endIndex": ids.last}
        print(json.dumps(answer, ensure_ascii=False))
    else:
        print(ids.first, ids.last)
    return 0


def probe(arguments: argparse.Namespace) -> int:
    """Print what identical requests got; 1 when an answer was not made for its request."""
    from uniqueid.client import check_mode, check_timeout, endpoint, read_token

    url, shown = endpoint(arguments.url)
    check_mode(arguments.mode)
    check_timeout(arguments.timeout)
    if arguments.token_file is not None:
        arguments.token = read_token(arguments.token_file)
    report = _measure(url, shown, arguments)
    if arguments.json:
        print(json.dumps(report.document(), ensure_ascii=False, indent=2))
    else:
        print("\n".join(report.lines()))
    return 1 if report.cached or report.unknown else 0


def _add_url(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--url", required=True, help="where the service is, as its clients see it: http://HOST:PORT"
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="for a connection, and for an answer (default: %(default)g)",
    )
    command.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token to send; not an option, which ps would show to everyone",
    )


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {low} to {high}")
        return int(text)

    return read


def _guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Turn what the client raises for bad input or a missing package into one line."""

    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except ImportError as error:
            raise UniqueIDError(str(error)) from error
        except ValueError as error:
            print(f"pacifica-uniqueid-cmd: {error}", file=sys.stderr)
            return _UNUSABLE

    return guarded


# -- the measurement ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    """What one request got."""

    status: int
    seconds: float
    version: str
    headers: dict[str, str]
    """Names in lower case."""
    first: int | None
    detail: str
    """What an error says, behind a colon."""
    repeats_nonce: bool | None
    """Whether the nonce of this request came back; None when none was sent or none came."""
    kept: bool
    """Whether an Age says that it was made before the request."""


@dataclass
class _Group:
    """Requests that are all alike for a cache."""

    title: str
    method: str
    query: str
    concurrency: int
    nonce: bool
    expected: int = 200
    answers: list[_Answer] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    @property
    def wrong_nonce(self) -> int:
        return sum(answer.repeats_nonce is False for answer in self.answers)

    @property
    def kept(self) -> int:
        return sum(answer.kept for answer in self.answers)


@dataclass
class _Report:
    """What the operator is told."""

    url: str
    mode: str
    groups: list[_Group]
    missing: list[str]
    changed: list[str]
    validators: list[str]

    @property
    def answers(self) -> list[_Answer]:
        return [answer for group in self.groups for answer in group.answers]

    @property
    def cached(self) -> list[str]:
        """What proves that answers are kept."""
        proofs = []
        for group in self.groups:
            for count, what in (
                (group.repeated, "had IDs that had been handed out before"),
                (group.wrong_nonce, "had the nonce of another request"),
                (group.kept, "had an Age above the time that the request took"),
            ):
                if count:
                    proofs.append(f"{group.title}: {count} of {len(group.answers)} answers {what}")
        return proofs

    @property
    def unknown(self) -> list[str]:
        """Which kinds of requests were not answered often enough to say anything."""
        return [
            f"{group.title}: {len(group.answers)} answers are too few ({_counted(group.failures)})"
            for group in self.groups
            if len(group.answers) < 2
        ]

    @property
    def warnings(self) -> list[str]:
        """What a cache further away could be misled by."""
        said = []
        nonced = [answer for group in self.groups if group.nonce for answer in group.answers]
        if nonced and all(answer.repeats_nonce is None for answer in nonced):
            said.append(
                "no nonce came back: the service is too old for it, or something drops"
                " X-Request-Nonce"
            )
        if self.missing:
            said.append(f"headers that the service sends are missing: {', '.join(self.missing)}")
        if self.changed:
            said.append(f"headers of the service were changed: {', '.join(self.changed)}")
        if self.validators:
            said.append(f"headers that help a cache were added: {', '.join(self.validators)}")
        for group in self.groups:
            if group.failures and len(group.answers) >= 2:
                said.append(f"{group.title}: not answered were {_counted(group.failures)}")
        return said

    def witnesses(self) -> dict[str, list[str]]:
        """Headers that say who was on the way, with their values."""
        found = {}
        for name in _WITNESSES:
            values = {answer.headers.get(name.lower()) for answer in self.answers} - {None}
            if values:
                found[name] = sorted(str(value) for value in values)[:10]
        return found

    def versions(self) -> list[str]:
        return sorted({answer.version for answer in self.answers})

    def document(self) -> dict[str, Any]:
        """All of it for a program."""
        return {
            "url": self.url,
            "mode": self.mode,
            "cached": bool(self.cached),
            "proofs": self.cached,
            "unknown": self.unknown,
            "warnings": self.warnings,
            "http": self.versions(),
            "headers": self.witnesses(),
            "groups": [
                {
                    "title": group.title,
                    "answers": len(group.answers),
                    "repeated": group.repeated,
                    "wrong_nonce": group.wrong_nonce,
                    "kept": group.kept,
                    "failed": dict(group.failures),
                    "milliseconds": _latency([answer.seconds for answer in group.answers]),
                }
                for group in self.groups
            ],
        }

    def lines(self) -> list[str]:
        """All of it for a person."""
        width = max(len(group.title) for group in self.groups)
        heads = ("answers", "repeated", "wrong nonce", "aged", "failed", "median", "p99", "max")
        lines = [f"{self.url}, mode {self.mode!r}", ""]
        lines.append("  ".join(["requests".ljust(width), *(head.rjust(8) for head in heads)]))
        for group in self.groups:
            times = _latency([answer.seconds for answer in group.answers])
            counts = (
                len(group.answers),
                group.repeated,
                group.wrong_nonce,
                group.kept,
                group.failures.total(),
            )
            cells = [str(count) for count in counts]
            cells += [
                "-" if times is None else f"{times[name]:.1f} ms"
                for name in ("median", "p99", "max")
            ]
            row = (cell.rjust(max(8, len(head))) for cell, head in zip(cells, heads, strict=True))
            lines.append("  ".join([group.title.ljust(width), *row]))
        lines.append("")
        lines.append(f"HTTP version: {', '.join(self.versions()) or 'none'}")
        lines += [f"{name}: {', '.join(values)}" for name, values in self.witnesses().items()]
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"NOT KNOWN: {text}" for text in self.unknown]
        lines += [f"CACHED: {proof}" for proof in self.cached]
        if self.cached:
            lines.append(
                "Something between here and the service keeps answers: IDs are handed out twice."
            )
        elif not self.unknown:
            lines.append("Every request got an answer of its own: nothing on the way keeps them.")
        return lines


def _measure(url: str, shown: str, arguments: argparse.Namespace) -> _Report:
    good = f"range=1&mode={quote(arguments.mode, safe='')}"
    bad = f"range=none&mode={quote(arguments.mode, safe='')}"
    many = arguments.concurrency
    groups = [
        _Group("GET, one after the other", "GET", good, 1, False),
        _Group(f"GET, {many} at a time", "GET", good, many, False),
        _Group("POST, one after the other", "POST", good, 1, False),
        _Group(f"POST, {many} at a time", "POST", good, many, False),
        # For a cache that does not look at this header, these are the first ones again.
        _Group("GET with a nonce", "GET", good, 1, True),
        _Group("GET that is refused (400)", "GET", bad, 1, True, 400),
    ]
    seen: set[int] = set()
    for group in groups:
        _ask_all(group, url, arguments)
        for answer in group.answers:
            if answer.first is not None:
                group.repeated += answer.first in seen
                seen.add(answer.first)
    answers = [answer for group in groups for answer in group.answers]
    if not answers:
        failures = sum((group.failures for group in groups), Counter[str]())
        raise UniqueIDError(f"{shown} gave no answer: {_counted(failures)}")
    # Imported here for the one list of headers: the application itself is not needed.
    from uniqueid.web.app import NEVER_CACHED

    missing, changed, validators = set(), set(), set()
    for answer in answers:
        for name, value in NEVER_CACHED:
            got = answer.headers.get(name.lower())
            if got is None and name.lower() not in _CONSUMED:
                missing.add(name)
            elif got is not None and got != value:
                changed.add(f"{name}: {got}")
        validators |= {name for name in ("ETag", "Last-Modified") if name.lower() in answer.headers}
    return _Report(
        shown, arguments.mode, groups, sorted(missing), sorted(changed), sorted(validators)
    )


def _ask_all(group: _Group, url: str, arguments: argparse.Namespace) -> None:
    import requests

    from uniqueid.client import bearer

    local = threading.local()
    sessions = []

    token = getattr(arguments, "token", None)
    auth = None if token is None else bearer(token)

    def ask(_number: int) -> _Answer | str:
        if not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.auth = auth
            sessions.append(local.session)
        try:
            return _ask(local.session, group, url, arguments.timeout)
        except OSError as error:
            return type(error).__name__

    with ThreadPoolExecutor(group.concurrency) as pool:
        results = list(pool.map(ask, range(arguments.requests)))
    for session in sessions:
        session.close()
    for result in results:
        if isinstance(result, str):
            group.failures[result] += 1
        elif result.status != group.expected or (result.status == 200 and result.first is None):
            group.failures[f"status {result.status}{result.detail}"] += 1
        else:
            group.answers.append(result)


def _ask(session: requests.Session, group: _Group, url: str, timeout: float) -> _Answer:
    from uniqueid.client import NONCE, is_new

    nonce = secrets.token_urlsafe(16)
    began = time.monotonic()
    response = session.request(
        group.method,
        f"{url}?{group.query}",
        headers={NONCE: nonce} if group.nonce else {},
        timeout=timeout,
        allow_redirects=False,
    )
    seconds = time.monotonic() - began
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    first = document.get("startIndex")
    detail = document.get("detail")
    returned = response.headers.get(NONCE)
    age = response.headers.get("Age")
    return _Answer(
        status=response.status_code,
        seconds=seconds,
        version=_VERSIONS.get(response.raw.version, str(response.raw.version)),
        headers={name.lower(): value for name, value in response.headers.items()},
        first=first if isinstance(first, int) else None,
        detail=f": {detail}" if isinstance(detail, str) else "",
        # One that comes back unasked is another's as well.
        repeats_nonce=None if returned is None else group.nonce and returned == nonce,
        kept=age is not None and not is_new(age, seconds),
    )


def _latency(seconds: Sequence[float]) -> dict[str, float] | None:
    """Milliseconds; None of no requests."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {
        "median": round(statistics.median(ordered) * 1000, 3),
        "p99": round(p99 * 1000, 3),
        "max": round(ordered[-1] * 1000, 3),
    }


def _counted(failures: Counter[str]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in failures.most_common()) or "none"
