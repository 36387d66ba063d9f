"""The command ``probe``: whether a cache or proxy in front of a service repeats responses."""

from __future__ import annotations

import argparse
import json
import math
import secrets
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

from uniqueid_client import protocol
from uniqueid_client.errors import UniqueIDError
from uniqueid_client.protocol import CLIENT, NEVER_CACHED, NONCE, REQUEST_HEADERS

MODE = "uniqueid-probe"
_CONSUMED = ("X-Accel-Expires", "X-Accel-Buffering", "Surrogate-Control")
"""Headers that the proxy which they address removes."""
_WITNESSES = ("Via", "Server", "X-Cache", "X-Cache-Status", "CF-Cache-Status", "Age")
_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
_PROOFS = {
    "repeated": "had IDs of an earlier response",
    "wrong_nonce": "had the nonce of another request",
    "aged": "had an Age above the time that the request took",
}


@dataclass(frozen=True)
class Reply:
    """The response to one request."""

    response: requests.Response
    seconds: float
    nonce: str | None

    def facts(self, seen: set[int]) -> list[str]:
        """Which of `_PROOFS` hold for it; its ID is added to those that were `seen`."""
        first = protocol.document(self.response).get("startIndex")
        returned, age = self.response.headers.get(NONCE), self.response.headers.get("Age")
        found = {
            "repeated": first in seen,
            # One that comes back without having been sent belongs to another request as well.
            "wrong_nonce": returned is not None and returned != self.nonce,
            "aged": age is not None and not protocol.is_new(age, self.seconds),
        }
        if isinstance(first, int):
            seen.add(first)
        return [name for name, holds in found.items() if holds]


@dataclass
class Group:
    """Requests that are identical for a cache."""

    title: str
    method: str
    concurrency: int = 1
    nonce: bool = False
    status: int = 200

    def send(self, url: str, arguments: argparse.Namespace) -> None:
        """Send all requests, and sort the replies from the failures."""
        local = threading.local()
        token = None if arguments.token_file is None else protocol.read_token(arguments.token_file)

        def send(_number: int) -> Reply | str:
            if not hasattr(local, "session"):
                local.session = requests.Session()
                local.session.auth = None if token is None else protocol.bearer(token)
            return self._send(local.session, url, arguments)

        with ThreadPoolExecutor(self.concurrency) as pool:
            results = list(pool.map(send, range(arguments.requests)))
        self.replies = [one for one in results if isinstance(one, Reply)]
        self.failures = Counter(one for one in results if isinstance(one, str))

    def _send(
        self, session: requests.Session, url: str, arguments: argparse.Namespace
    ) -> Reply | str:
        count = "1" if self.status == 200 else "none"
        nonce = secrets.token_urlsafe(16) if self.nonce else None
        # The caching headers of the client's own requests would hide a cache that heeds them.
        headers = {"User-Agent": REQUEST_HEADERS["User-Agent"], CLIENT: MODE}
        began = time.monotonic()
        try:
            response = session.request(
                self.method,
                f"{url}?range={count}&mode={quote(arguments.mode, safe='')}",
                headers=headers if nonce is None else {**headers, NONCE: nonce},
                timeout=arguments.timeout,
                allow_redirects=False,
            )
        except OSError as error:
            return type(error).__name__
        seconds = time.monotonic() - began
        body = protocol.document(response)
        if response.status_code != self.status or (
            self.status == 200 and not isinstance(body.get("startIndex"), int)
        ):
            detail = f": {body['detail']}" if "detail" in body else ""
            return f"status {response.status_code}{detail}"
        return Reply(response, seconds, nonce)

    def count(self, seen: set[int]) -> None:
        """Count the proofs."""
        self.proofs = Counter(fact for reply in self.replies for fact in reply.facts(seen))

    def milliseconds(self) -> dict[str, float] | None:
        if not self.replies:
            return None
        ordered = sorted(reply.seconds * 1000 for reply in self.replies)
        p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
        values = {"median": statistics.median(ordered), "p99": p99, "max": ordered[-1]}
        return {name: round(value, 3) for name, value in values.items()}


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1 if something repeats responses, or if that is unknown."""
    url, shown = protocol.endpoint(arguments.url)
    protocol.check_mode(arguments.mode)
    protocol.check_seconds("timeout", arguments.timeout)
    many = arguments.concurrency
    groups = [
        Group("GET, sequential", "GET"),
        Group(f"GET, {many} concurrent", "GET", many),
        Group("POST, sequential", "POST"),
        Group(f"POST, {many} concurrent", "POST", many),
        # For a cache that ignores this header, these are the first requests again.
        Group("GET with a nonce", "GET", nonce=True),
        Group("GET that is rejected (400)", "GET", nonce=True, status=400),
    ]
    seen: set[int] = set()
    for group in groups:
        group.send(url, arguments)
        group.count(seen)
    if not any(group.replies for group in groups):
        failures = sum((group.failures for group in groups), Counter[str]())
        raise UniqueIDError(f"{shown} gave no answer: {_listed(failures)}")
    report = _report(shown, arguments.mode, groups)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_lines(report)))
    return 1 if report["proofs"] or report["unknown"] else 0


def _report(shown: str, mode: str, groups: list[Group]) -> dict[str, Any]:
    replies = [reply for group in groups for reply in group.replies]
    headers = [reply.response.headers for reply in replies]
    witnesses = {name: sorted({one[name] for one in headers if name in one}) for name in _WITNESSES}
    return {
        "url": shown,
        "mode": mode,
        "cached": any(group.proofs for group in groups),
        "proofs": [
            f"{group.title}: {group.proofs[name]} of {len(group.replies)} answers {text}"
            for group in groups
            for name, text in _PROOFS.items()
            if group.proofs[name]
        ],
        "unknown": [
            f"{group.title}: {len(group.replies)} answers are too few ({_listed(group.failures)})"
            for group in groups
            if len(group.replies) < 2
        ],
        "warnings": _warnings(groups),
        "http": sorted({_VERSIONS.get(one.response.raw.version, "HTTP/?") for one in replies}),
        "headers": {name: values[:10] for name, values in witnesses.items() if values},
        "groups": [
            {
                "title": group.title,
                "answers": len(group.replies),
                **{name: group.proofs[name] for name in _PROOFS},
                "failed": dict(group.failures),
                "milliseconds": group.milliseconds(),
            }
            for group in groups
        ],
    }


def _warnings(groups: list[Group]) -> list[str]:
    """What may mislead a cache that this client does not use."""
    found = []
    nonced = [reply for group in groups if group.nonce for reply in group.replies]
    if nonced and not any(NONCE in reply.response.headers for reply in nonced):
        found.append("no nonce came back: the service is too old, or a proxy drops " + NONCE)
    headers = [reply.response.headers for group in groups for reply in group.replies]
    missing = [
        name
        for name in NEVER_CACHED
        if name not in _CONSUMED and not all(name in one for one in headers)
    ]
    changed = sorted(
        {
            f"{name}: {one[name]}"
            for name, value in NEVER_CACHED.items()
            for one in headers
            if one.get(name, value) != value
        }
    )
    added = [name for name in ("ETag", "Last-Modified") if any(name in one for one in headers)]
    for values, text in (
        (missing, "headers of the service are missing"),
        (changed, "headers of the service were changed"),
        (added, "headers that help a cache were added"),
    ):
        if values:
            found.append(f"{text}: {', '.join(values)}")
    return found + [
        f"{group.title}: failed were {_listed(group.failures)}"
        for group in groups
        if group.failures and len(group.replies) >= 2
    ]


def _lines(report: dict[str, Any]) -> list[str]:
    """The report for a person."""
    heads = ["answers", "repeated", "wrong nonce", "aged", "failed", "median", "p99", "max"]
    rows = [["requests", *heads]]
    for group in report["groups"]:
        times = group["milliseconds"]
        rows.append(
            [group["title"], str(group["answers"])]
            + [str(group[name]) for name in _PROOFS]
            + [str(sum(group["failed"].values()))]
            + ["-" if times is None else f"{times[name]:.1f} ms" for name in heads[-3:]]
        )
    widths = [max(8, *(len(row[place]) for row in rows)) for place in range(len(rows[0]))]
    lines = [f"{report['url']}, mode {report['mode']!r}", ""]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    lines += ["", f"HTTP version: {', '.join(report['http'])}"]
    lines += [f"{name}: {', '.join(values)}" for name, values in report["headers"].items()]
    for label, name in (("warning", "warnings"), ("UNKNOWN", "unknown"), ("CACHED", "proofs")):
        lines += [f"{label}: {text}" for text in report[name]]
    if report["cached"]:
        lines.append("A proxy or cache in front of the service repeats responses: duplicate IDs.")
    elif not report["unknown"]:
        lines.append("Every request got a response of its own: no cache was found.")
    return lines


def _listed(failures: Counter[str]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in failures.most_common()) or "none"
