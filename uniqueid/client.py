"""The Python client: ranges, or single IDs without end, which no cache on the way can double.

::

    from uniqueid.client import Client

    with Client("http://uniqueid:8051") as client:
        files = client.get_range("file", 100)
        ids = client.ids("file")
        first = next(ids)

Every attempt carries a nonce of its own, and an answer without it was made for another request: it
is not used. All attempts for one range carry the same idempotency key: if one of them has taken a
range and its answer was lost, the next gets that very range. What is lost all the same is never
handed out again by the service, to nobody: the rest of a range when a process ends, and the range
whose last attempt had no answer. That is a gap, which the service allows, and never a duplicate.

It needs ``requests``: ``pip install pacifica-uniqueid[client]``.
"""

from __future__ import annotations

import bisect
import logging
import math
import os
import random
import re
import secrets
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

try:
    import requests
except ImportError as error:
    raise ImportError(
        "the client needs the package requests: pip install pacifica-uniqueid[client]"
    ) from error

from uniqueid.errors import UniqueIDError

log = logging.getLogger(__name__)
# A library prints nothing where the program has not set up logging.
log.addHandler(logging.NullHandler())

NONCE = "X-Request-Nonce"
KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_MODE_LENGTH = 255
MAX_TIMEOUT = 86_400
"""Seconds."""

_FIRST_BACKOFF = 0.1
_MAX_BACKOFF = 10.0
_MAX_RETRY_AFTER = 60.0
"""Seconds. A service that wants to be left alone for longer is not waited for."""
_HORIZON = 2.0
"""Seconds that a prefetched range should last: what a consumer is independent of the service."""
_GROWTH = 10
"""How many times larger than the one before a range may be: one burst does not reserve a million
IDs."""
_MAX_SEEN = 10_000
"""Ranges remembered for a mode; neighbours count as one."""
_MAX_KEYS = 1_000
"""Ranges remembered with the keys that callers gave for them."""
_RETRIED_STATUS = frozenset({408, 425, 429})
_RETRIED_TYPES = frozenset({"idempotency-key-in-flight"})
_AROUND_CACHES = {
    # What an honest cache heeds in a request (RFC 9111, 5.2.1.4 and 5.4).
    "Cache-Control": "no-cache, no-store",
    "Pragma": "no-cache",
    "Accept": "application/json",
}
_WITNESSES = ("Via", "Server", "X-Cache", "Age")


class RequestRefused(UniqueIDError):
    """The service, or something before it, will not answer this request: trying again is no use."""

    def __init__(self, url: str, status: int, type: str, detail: str) -> None:
        self.url = url
        self.status = status
        self.type = type
        """The problem type of the service's answer, as `bad-mode`; `about:blank` when it has
        none."""
        self.detail = detail
        super().__init__(f"{url} answered {status}: {detail}")


class ServiceUnavailable(UniqueIDError):
    """No attempt brought an answer. Ranges may have been taken that nobody will get."""

    def __init__(self, url: str, attempts: int, cause: str) -> None:
        self.url = url
        self.attempts = attempts
        self.cause = cause
        super().__init__(f"{url} did not answer in {_times(attempts)}: {cause}")


class CachedResponseError(UniqueIDError):
    """The answers that came were made for other requests; not one of their IDs was used.

    `headers` holds those of the last one which tell who was involved: Via, Server, X-Cache, Age.
    """

    severity = logging.WARNING

    def __init__(self, url: str, attempts: int, reason: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.attempts = attempts
        self.reason = reason
        self.headers = {name: headers[name] for name in _WITNESSES if name in headers}
        said = ", ".join(f"{name}: {value}" for name, value in self.headers.items())
        super().__init__(
            f"{url} gave an answer that was not made for this request in {_times(attempts)}:"
            f" {reason}. A cache is on the way ({said or 'it names itself in no header'}), or the"
            " service is too old to return a nonce; see docs/caching.md"
        )

    @property
    def via(self) -> str | None:
        """The proxies that say they were on the way (RFC 9110, 7.6.3)."""
        return self.headers.get("Via")

    @property
    def server(self) -> str | None:
        """The server that says it answered."""
        return self.headers.get("Server")


class RepeatedRangeError(CachedResponseError):
    """Answers with the nonces of their requests had IDs which this client had before.

    That is more than a cache: something on the way rewrites answers, or the service repeats
    itself. Somebody should look before more IDs are used.
    """

    severity = logging.ERROR


class ClientClosed(UniqueIDError):
    """The client was closed."""

    def __init__(self) -> None:
        super().__init__("the client was closed")


@dataclass(frozen=True, slots=True)
class Range:
    """IDs of a mode that nobody else has: first to last, both included."""

    mode: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __contains__(self, id: object) -> bool:
        return isinstance(id, int) and self.first <= id <= self.last


class Client:
    """Asks one service for IDs; for use by any number of threads.

    A process that forks may go on using it on both sides: they share neither connections nor IDs.

    :param url: where the service is, as ``http://uniqueid:8051``. Redirects are not followed.
    :param timeout: seconds to connect, and seconds without a byte of an answer. The service
        answers within its `request_timeout` (10 seconds by default), with a 503 if it must.
    :param attempts: how often one range is asked for. Between two attempts a client waits for a
        random time of up to 0.1 seconds, doubled each time up to 10 seconds, or for what the
        service says in Retry-After.
    :param method: POST, which no proxy sends twice and hardly any keeps, or GET.
    :param token: what the service's `auth_tokens_file` knows the SHA-256 of, or a function that
        returns it, called for every request, so that it can change.
    :param keys: send an Idempotency-Key with each request, the same with all attempts for one
        range. A service that does not know of it ignores it.
    :param new_session: makes the sessions of `requests`, which hold what a site needs:
        certificates, proxies, credentials. Each is used by one thread at a time.
    :raises ValueError: for a parameter that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 15.0,
        attempts: int = 6,
        method: str = "POST",
        token: str | Callable[[], str] | None = None,
        keys: bool = True,
        new_session: Callable[[], requests.Session] = requests.Session,
    ) -> None:
        self._endpoint, self._shown = endpoint(url)
        check_timeout(timeout)
        if attempts < 1:
            raise ValueError(f"attempts is {attempts!r}: give 1 or more")
        if method not in ("POST", "GET"):
            raise ValueError(f"method is {method!r}: give POST or GET")
        if isinstance(token, str):
            check_token(token)
        self._token = token
        self._timeout = timeout
        self._attempts = attempts
        self._method = method
        self._keys = keys
        self._new_session = new_session
        self._closed = False
        self._processes = _PerProcess(_Connections)
        self._iterators: weakref.WeakSet[IDs] = weakref.WeakSet()

    def get_range(self, mode: str, count: int, *, key: str | None = None) -> Range:
        """Take `count` IDs of a mode for this caller alone.

        :param mode: the name of the counter, 1 to 255 characters.
        :param count: 1 or more, up to the service's `max_range`.
        :param key: what stands for this request, 16 to 128 printable ASCII characters: asked again
            with it, by this process or a later one, the service returns the same range, for its
            `idempotency_ttl` (7 days). A random one, new with each call, when it is None.
        :raises RequestRefused: the service says no, and would again.
        :raises ServiceUnavailable: no attempt was answered.
        :raises CachedResponseError: the answers were made for other requests.
        :raises ClientClosed: after `close`, or when it was called meanwhile.
        """
        check_mode(mode)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count is {count!r}: give a whole number of 1 or more")
        if key is not None:
            check_key(key)
        connections = self._processes.get()
        method = self._method
        sent = (key or _new_key()) if key is not None or self._keys else None
        failure: UniqueIDError | None = None
        for attempt in range(1, self._attempts + 1):
            if self._closed or connections.closing.is_set():
                raise ClientClosed
            try:
                return self._ask(connections, method, mode, count, attempt, sent, key is not None)
            except CachedResponseError as error:
                log.log(error.severity, "%s", error)
                failure = error
                if isinstance(error, RepeatedRangeError) and key is None and sent is not None:
                    # The same key would bring the same range.
                    sent = _new_key()
                wait = random.uniform(0, _FIRST_BACKOFF)
                # The other method may lead around it: most caches keep only one of the two.
                method = "GET" if method == "POST" else "POST"
            except _TryAgain as error:
                failure = ServiceUnavailable(self._shown, attempt, error.cause)
                failure.__cause__ = error.__cause__
                if error.retry_after > _MAX_RETRY_AFTER:
                    break
                # Full jitter: clients that failed together do not come back together.
                # https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
                if error.without_key and key is None and sent is not None:
                    log.warning("%s", error.cause)
                    sent = None
                bound = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(attempt - 1, 30))
                wait = error.retry_after + random.uniform(0, bound)
            if attempt < self._attempts:
                connections.closing.wait(wait)
        assert failure is not None
        raise failure

    def ids(self, mode: str, *, min_step: int = 10, max_step: int = 1_000_000) -> IDs:
        """An iterator over IDs of a mode, without end, for any number of threads.

        It holds up to two ranges: one to give from, and the next, which is fetched in the
        background when half of the first is left. Both are as large as this process uses up in
        about two seconds, between the two bounds. When the process ends, what it holds is lost: a
        gap of at most twice `max_step`.

        An error reaches the caller only when there is no ID left; the iterator can be used again
        after it.

        :param min_step: the least that is asked for at once.
        :param max_step: the most; not more than the service's `max_range`.
        :raises ValueError: for a parameter that cannot be used. `next` raises what `get_range`
            does.
        """
        check_mode(mode)
        if not 1 <= min_step <= max_step:
            raise ValueError(
                f"min_step is {min_step!r} and max_step is {max_step!r}: give whole numbers of 1"
                " or more, the second not smaller than the first"
            )
        if self._closed:
            raise ClientClosed
        iterator = IDs(self, mode, min_step, max_step)
        self._iterators.add(iterator)
        return iterator

    def close(self) -> None:
        """Close the connections and end all waiting; what the iterators hold is lost, a gap."""
        self._closed = True
        self._processes.get().close()
        for iterator in list(self._iterators):
            iterator._close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(
        self,
        connections: _Connections,
        method: str,
        mode: str,
        count: int,
        attempt: int,
        key: str | None,
        given: bool,
    ) -> Range:
        """One attempt, with a nonce that was never used before.

        :param given: whether the key is the caller's, who may have had its range before.
        """
        nonce = secrets.token_urlsafe(16)
        # In the query for both methods: the service then returns the nonce in the document as
        # well, where no proxy drops it, and a cache which heeds the query has a new key.
        target = f"{self._endpoint}?range={count}&mode={quote(mode, safe='')}&nonce={nonce}"
        auth = None if self._token is None else bearer(self._token)
        headers = _AROUND_CACHES if key is None else {**_AROUND_CACHES, KEY: _quoted(key)}
        session = connections.take(self._new_session)
        sent = time.monotonic()
        try:
            response = session.request(
                method,
                target,
                headers=headers,
                auth=auth,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except OSError as error:  # requests' own errors are among these
            session.close()
            if isinstance(error, requests.exceptions.InvalidURL):
                raise ValueError(f"url is {self._shown!r}: {error}") from None
            raise _TryAgain(self._reason(error)) from error
        except BaseException:
            session.close()
            raise
        connections.give_back(session)
        document = _document(response)
        stale = _stale(response, document, nonce, time.monotonic() - sent)
        if stale is not None:
            raise CachedResponseError(self._shown, attempt, stale, response.headers)
        first = _first(response, document, count, self._shown)
        replayed = given and response.headers.get(REPLAYED) == "true"
        if not connections.note(mode, first, first + count, key if given else None, replayed):
            reason = f"IDs {first} to {first + count - 1} of mode {mode!r} came a second time"
            raise RepeatedRangeError(self._shown, attempt, reason, response.headers)
        return Range(mode, first, first + count - 1)

    def _reason(self, error: BaseException) -> str:
        """Why there was no answer, without the URL, which may hold credentials."""
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return f"no connection within {self._timeout:g} seconds"
        if isinstance(error, requests.exceptions.ReadTimeout):
            return f"no answer within {self._timeout:g} seconds"
        # The first cause: requests and urllib3 wrap it several times.
        while (inner := error.__cause__ or error.__context__) is not None:
            error = inner
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return text or type(error).__name__


class IDs:
    """IDs of a mode without end; made by `Client.ids`."""

    def __init__(self, client: Client, mode: str, min_step: int, max_step: int) -> None:
        self._client = client
        self.mode = mode
        self._processes = _PerProcess(lambda: _Buffer(client, mode, min_step, max_step))
        self._buffer = self._processes.get()

    def __iter__(self) -> IDs:
        return self

    def __next__(self) -> int:
        """The next ID; it blocks while there is none."""
        buffer = self._buffer
        if buffer.pid != os.getpid() or buffer.generation != _generation:
            buffer = self._buffer = self._processes.get()
        with buffer.changed:
            id = buffer.next
            if id >= buffer.stop:
                id = buffer.refill()
            buffer.next = id + 1
            return id

    def _close(self) -> None:
        self._processes.get().drop()


_T = TypeVar("_T")

# How many forks lie behind this process. The process id alone would not do: the child of a child
# can have the id of an ancestor that has ended. The generation alone would not either: not all
# programs that embed Python tell it of a fork.
_generation = 0


def _after_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


class _PerProcess(Generic[_T]):
    """One object of a kind in each process: a fork's child makes its own.

    A lock cannot guard this, since a child may inherit it held; `setdefault` is atomic.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made: dict[tuple[int, int], _T] = {}

    def get(self) -> _T:
        key = (_generation, os.getpid())
        made = self._made.get(key)
        return self._made.setdefault(key, self._make()) if made is None else made


class _Connections:
    """The sessions of one process that nobody uses at the moment, and the ranges it got."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._idle: deque[requests.Session] = deque()
        self._seen: dict[str, _Seen] = {}
        self._keyed: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, new_session: Callable[[], requests.Session]) -> requests.Session:
        try:
            return self._idle.pop()
        except IndexError:
            return new_session()

    def give_back(self, session: requests.Session) -> None:
        self._idle.append(session)
        if self.closing.is_set():
            self.close()

    def note(
        self, mode: str, start: int, stop: int, key: str | None = None, replayed: bool = False
    ) -> bool:
        """Remember a range; False when some of it was seen before.

        :param key: the caller's own. What it brought before it may bring again, if the service
            says that it does so on purpose.
        """
        with self._lock:
            if key is None:
                return self._seen.setdefault(mode, _Seen()).add(start, stop)
            if replayed and self._keyed.get((mode, key)) == (start, stop):
                return True
            new = self._seen.setdefault(mode, _Seen()).add(start, stop)
            if new:
                self._keyed[mode, key] = (start, stop)
                if len(self._keyed) > _MAX_KEYS:
                    self._keyed.popitem(last=False)
            return new

    def close(self) -> None:
        self.closing.set()
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return
            session.close()


class _Seen:
    """Disjoint ranges, neighbours joined; the lowest are forgotten when there are too many."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> bool:
        """Add start to stop - 1; False when it meets one that is there."""
        starts, stops = self._starts, self._stops
        place = bisect.bisect_right(starts, start)
        if (place > 0 and stops[place - 1] > start) or (
            place < len(starts) and starts[place] < stop
        ):
            return False
        after_one = place > 0 and stops[place - 1] == start
        before_one = place < len(starts) and starts[place] == stop
        if after_one and before_one:
            stops[place - 1] = stops.pop(place)
            del starts[place]
        elif after_one:
            stops[place - 1] = stop
        elif before_one:
            starts[place] = start
        else:
            starts.insert(place, start)
            stops.insert(place, stop)
            if len(starts) > _MAX_SEEN:
                del starts[0], stops[0]
        return True


class _Fetch:
    """A range that is being asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = False
        self.error: BaseException | None = None


class _Buffer:
    """Two ranges of one process. Whoever uses it holds `changed`."""

    def __init__(self, client: Client, mode: str, min_step: int, max_step: int) -> None:
        self.pid = os.getpid()
        self.generation = _generation
        self.changed = threading.Condition(threading.Lock())
        self.next = 0
        # Where `next` has to look up: at the low-water mark, and at the end.
        self.stop = 0
        self._end = 0
        self._ahead: Range | None = None
        self._fetch: _Fetch | None = None
        self._client = client
        self._mode = mode
        self._bounds = (min_step, max_step)
        self._step = min_step
        self._asked: float | None = None

    def refill(self) -> int:
        """The next ID, from wherever it comes; asks for more in time."""
        while self.next >= self.stop:
            if self.next < self._end:
                # The low-water mark.
                self.stop = self._end
                self._ask()
            elif self._ahead is not None:
                ahead, self._ahead = self._ahead, None
                self._take(ahead)
            else:
                fetch = self._ask()
                while not fetch.done:
                    self.changed.wait()
                if fetch.error is not None and self._ahead is None and self.next >= self._end:
                    # It may go to many threads; each starts a traceback of its own.
                    raise fetch.error.with_traceback(None)
        return self.next

    def drop(self) -> None:
        """Forget what is there."""
        with self.changed:
            self.next = self.stop = self._end = 0
            self._ahead = None
            self.changed.notify_all()

    def _take(self, ahead: Range) -> None:
        self.next, self._end = ahead.first, ahead.last + 1
        # With one ID there is nothing to give before the next range is asked for.
        self.stop = self.next + len(ahead) // 2
        if self.stop == self.next:
            self.stop = self._end
            self._ask()

    def _ask(self) -> _Fetch:
        """Have the next range fetched, unless it is already."""
        if self._fetch is not None:
            return self._fetch
        fetch = self._fetch = _Fetch(self._next_step())
        thread = threading.Thread(
            target=self._run, args=(fetch,), name=f"ids of {self._mode}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No more threads, or the interpreter is ending: the caller waits instead.
            self.changed.release()
            try:
                self._run(fetch)
            finally:
                self.changed.acquire()
        return fetch

    def _next_step(self) -> int:
        """As many as are used up within the horizon, at the rate since the last time."""
        low, high = self._bounds
        now = time.monotonic()
        if self._asked is not None:
            # Between two askings about one step is used up: the second half of one range and the
            # first of the next.
            wanted = int(self._step * _HORIZON / max(now - self._asked, 1e-6))
            self._step = max(low, min(high, wanted, self._step * _GROWTH))
        self._asked = now
        return self._step

    def _run(self, fetch: _Fetch) -> None:
        ahead: Range | None = None
        try:
            ahead = self._client.get_range(self._mode, fetch.count)
        except BaseException as error:
            fetch.error = error
        with self.changed:
            if self._client._closed:
                ahead, fetch.error = None, ClientClosed()
            self._ahead = ahead
            self._fetch = None
            fetch.done = True
            self.changed.notify_all()


class _TryAgain(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, cause: str, retry_after: float = 0, *, without_key: bool = False) -> None:
        self.cause = cause
        self.without_key = without_key
        """Whether a request without a key would be met."""
        self.retry_after = retry_after
        super().__init__(cause)


def endpoint(url: str) -> tuple[str, str]:
    """The URL to ask, and how to show it: without credentials.

    :raises ValueError: for a URL that cannot be asked.
    """
    allowed = "give http://HOST[:PORT] or https://HOST[:PORT], with a path if there is one"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"url is {url!r}: {error}; {allowed}") from None
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ValueError(f"url is {url!r}: {allowed}")
    path = parts.path.rstrip("/") + "/getid"
    location = f"[{host}]" if ":" in host else host
    if port is not None:
        location += f":{port}"
    return (
        urlunsplit((parts.scheme, parts.netloc, path, "", "")),
        urlunsplit((parts.scheme, location, path, "", "")),
    )


def check_timeout(timeout: float) -> None:
    """Refuse with a ValueError what cannot be a time-out."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(
            f"timeout is {timeout!r}: give a number of seconds above 0, at most {MAX_TIMEOUT}"
        )


def check_token(token: str, what: str = "token") -> str:
    """The token itself, if it can be sent (RFC 6750, 2.1); the error does not show it.

    :raises ValueError: when it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]{1,512}=*", token, re.ASCII):
        raise ValueError(f"{what}: give 1 to 512 letters, digits and ._~+/-, with = at the end")
    return token


def read_token(file: str) -> str:
    """The token in a file: its text, without white space around it.

    :raises ValueError: when there is none, or it cannot be sent.
    """
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"token file {file!r}: {reason}") from None
    return check_token(text, f"the token in {file!r}")


def bearer(
    token: str | Callable[[], str],
) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Sends a token, as `requests` wants it: a header alone would lose against a ~/.netrc."""
    text = token if isinstance(token, str) else check_token(token())

    def add(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers["Authorization"] = f"Bearer {text}"
        return prepared

    return add


def check_mode(mode: str) -> None:
    """Refuse with a ValueError what cannot be the name of a mode."""
    if not isinstance(mode, str) or not 0 < len(mode) <= MAX_MODE_LENGTH:
        raise ValueError(f"mode is {mode!r}: give a name of 1 to {MAX_MODE_LENGTH} characters")
    try:
        mode.encode()
    except UnicodeEncodeError:
        raise ValueError(f"mode is {mode!r}: give a name that UTF-8 can encode") from None


def check_key(key: str) -> str:
    """The key itself, if it can be sent.

    :raises ValueError: when it cannot.
    """
    if not re.fullmatch(r"[ -~]{16,128}", key, re.ASCII):
        raise ValueError(f"key is {key!r}: give 16 to 128 printable ASCII characters")
    return key


def _new_key() -> str:
    return secrets.token_urlsafe(24)


def _quoted(key: str) -> str:
    """As a string of a structured field (RFC 9651, 3.3.3)."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _document(response: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty when there is none."""
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _stale(
    response: requests.Response, document: dict[str, Any], nonce: str, seconds: float
) -> str | None:
    """Why an answer was not made for this request, which took so many seconds; or None."""
    returned = [
        value for value in (response.headers.get(NONCE), document.get("nonce")) if value is not None
    ]
    if any(value != nonce for value in returned):
        return "the nonce of another request came back"
    age = response.headers.get("Age")
    if age is not None and not is_new(age, seconds):
        return f"it was kept for some time (Age: {age})"
    # An error without a nonce may be a proxy's own.
    if response.status_code == 200 and not returned:
        return "no nonce came back"
    return None


def is_new(age: str, seconds: float) -> bool:
    """Whether an Age can be that of an answer which was made within so many seconds.

    RFC 9111, 5.1 has it that only a kept answer has an Age; but Varnish adds one to every answer,
    and Traffic Server one that counts the time which the answer took.
    """
    age = age.strip()
    return age.isascii() and age.isdigit() and len(age) < 12 and int(age) <= math.ceil(seconds)


def _first(response: requests.Response, document: dict[str, Any], count: int, shown: str) -> int:
    """The first ID of an answer that was made for this request."""
    status = response.status_code
    if status == 200:
        first, last = document.get("startIndex"), document.get("endIndex")
        # type() and not isinstance: JSON's true is an int in Python.
        if type(first) is int and type(last) is int and first > 0 and last - first + 1 == count:
            return first
        raise _TryAgain(f"the answer has no range of {count}: {response.text[:200]!r}")
    if 300 <= status < 400:
        target = response.headers.get("Location", "nowhere")
        detail = f"it redirects to {target}: give the client that URL"
        raise RequestRefused(shown, status, "about:blank", detail)
    detail = str(document.get("detail") or document.get("message") or response.reason)
    problem = str(document.get("type", "about:blank"))
    if problem == "journal-missing":
        raise _TryAgain(f"{status}: {detail}", without_key=True)
    if problem in _RETRIED_TYPES or status >= 500 or status in _RETRIED_STATUS:
        raise _TryAgain(f"{status}: {detail}", _retry_after(response))
    raise RequestRefused(shown, status, problem, detail)


def _retry_after(response: requests.Response) -> float:
    """Seconds to wait (RFC 9110, 10.2.3); 0 when the answer does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
