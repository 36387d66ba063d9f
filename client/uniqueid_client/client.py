"""The client: allocates ranges, with retries, and detects responses from a cache.

1. Every attempt has a nonce. A response without it belongs to another request and is not used.
2. All attempts for a range have one idempotency key: if a response was lost, the next attempt
   returns the same range.
3. A range that is lost nevertheless is a gap: the service does not allocate it again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from typing import Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from uniqueid_client import protocol
from uniqueid_client.errors import (
    CachedResponseError,
    ClientClosed,
    RepeatedRangeError,
    ServiceUnavailable,
)
from uniqueid_client.ids import BaseIDs, Call, IDs, Range
from uniqueid_client.process import Connections, PerProcess
from uniqueid_client.protocol import AttemptFailed

T_IDs = TypeVar("T_IDs", bound=BaseIDs)

log = logging.getLogger("uniqueid_client")
log.addHandler(logging.NullHandler())

GRACE = 0.25
"""Seconds after the deadline in which the attempt may still report its error."""
_BACKOFF = wait_random_exponential(multiplier=0.1, max=10)
"""Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""


class Options(TypedDict, total=False):
    """The options of `Client` and `AsyncClient`."""

    name: str
    timeout: float | tuple[float, float]
    deadline: float
    attempts: int
    method: str
    token: str | Callable[[], str] | None
    keys: bool
    new_session: Callable[[], requests.Session]


class Client:
    """A client of one service, for any number of threads, and on both sides of a fork().

    :param url: of the service, such as ``http://uniqueid:8051``. Redirects are not followed.
    :param name: what the service records as the client of a range (`X-Client`).
    :param timeout: seconds to connect, and seconds without a byte of the response; a single number
        for both. The service responds within its `request_timeout` (10 seconds).
    :param deadline: seconds for a range in total, with all attempts and the waits in between.
    :param attempts: the largest number of attempts for a range.
    :param method: POST, which no proxy repeats and few caches store, or GET.
    :param token: a bearer token of the service's `auth_tokens_file`, or a function that returns it
        and is called for every attempt.
    :param keys: whether requests carry an `Idempotency-Key`.
    :param new_session: makes the sessions of `requests`, with a site's certificates and proxies.
        A session is used by one thread at a time.
    :raises ValueError: for a parameter that is not allowed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = protocol.USER_AGENT,
        timeout: float | tuple[float, float] = (5.0, 15.0),
        deadline: float = 60.0,
        attempts: int = 6,
        method: str = "POST",
        token: str | Callable[[], str] | None = None,
        keys: bool = True,
        new_session: Callable[[], requests.Session] = requests.Session,
    ) -> None:
        self._endpoint, self.shown_url = protocol.endpoint(url)
        protocol.check_text("name", name, 1, 128)
        self._timeout = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        for seconds in self._timeout:
            protocol.check_seconds("timeout", seconds)
        protocol.check_seconds("deadline", deadline)
        if attempts < 1:
            raise ValueError(f"attempts is {attempts!r}: give 1 or more")
        if method not in ("POST", "GET"):
            raise ValueError(f"method is {method!r}: give POST or GET")
        if isinstance(token, str):
            protocol.check_token(token)
        self._name = name
        self._deadline = deadline
        self._attempts = attempts
        self._method = method
        self._token = token
        self._keys = keys
        self._new_session = new_session
        self._closed = False
        self._connections = PerProcess(Connections)
        self._iterators: weakref.WeakSet[BaseIDs] = weakref.WeakSet()

    @classmethod
    def from_env(cls, **options: Unpack[Options]) -> Self:
        """A client with the URL in `UNIQUEID_URL` and, if set, the token in the file
        `UNIQUEID_TOKEN_FILE`, which is read for every attempt."""
        return cls(*environment(options), **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown_url!r}, name={self._name!r})"

    def get_range(self, mode: str, count: int, *, key: str | None = None) -> Range:
        """Allocate `count` IDs of a mode.

        :param mode: the name of the counter, 1 to 255 characters.
        :param count: 1 or more, up to the service's `max_range`.
        :param key: the idempotency key, 16 to 128 printable ASCII characters: for the service's
            `idempotency_ttl` (7 days) the same key returns the same range, to any process. By
            default a random one, new for each call.
        :raises RequestRefused: the service rejected the request.
        :raises ServiceUnavailable: no attempt returned a range before the deadline.
        :raises CachedResponseError: the responses belong to other requests.
        :raises ClientClosed: the client was closed, before or during the call.
        """
        return self.wait(self.start(mode, count, key))

    def ids(self, mode: str, *, min_step: int = 10, max_step: int = 1_000_000) -> IDs:
        """An endless iterator over IDs of a mode, for any number of threads.

        It has up to two ranges. When half of the first is used, the next one is fetched in the
        background. A range has the IDs that this process uses in about two seconds, between
        `min_step` and `max_step`. What is left when the process ends is a gap.

        An error is raised only if no ID is left; the iterator remains usable.

        :param max_step: not more than the service's `max_range`.
        :raises ValueError: for a parameter that is not allowed.
        """
        return self.register(IDs(self.start, self.wait, mode, min_step, max_step))

    def close(self) -> None:
        """Close the connections and end all waits; the IDs that iterators hold are a gap."""
        self._closed = True
        connections = self._connections.get()
        connections.close()
        for call in list(connections.calls):
            with contextlib.suppress(InvalidStateError):
                call.set_exception(ClientClosed())
        for iterator in list(self._iterators):
            iterator.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- for AsyncClient as well ---------------------------------------------------------------

    def register(self, ids: T_IDs) -> T_IDs:
        """Have an iterator drop its IDs when the client is closed."""
        protocol.check_mode(ids.mode)
        if self._closed:
            raise ClientClosed
        self._iterators.add(ids)
        return ids

    def start(self, mode: str, count: int, key: str | None = None) -> Call:
        """Request a range in a thread of its own: a name server or a proxy that sends a byte now
        and then cannot delay the caller past the deadline."""
        protocol.check_mode(mode)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count is {count!r}: give a whole number of 1 or more")
        if key is not None:
            protocol.check_text("key", key, 16, 128)
        connections = self._connections.get()
        if self._closed or connections.closing.is_set():
            raise ClientClosed
        call = Call(self._deadline)
        call.set_running_or_notify_cancel()
        connections.calls.add(call)
        request = _Request(self, connections, call, mode, count, key)
        try:
            threading.Thread(target=request.run, name="uniqueid_client", daemon=True).start()
        except RuntimeError:
            # The limit of threads is reached, or the interpreter is shutting down.
            request.run()
        return call

    def wait(self, call: Call) -> Range:
        """The range of a call."""
        try:
            return call.result(call.left() + GRACE)
        except TimeoutError:
            if call.done():
                raise
            raise self.late() from None

    def late(self) -> ServiceUnavailable:
        """The error of a call that is past its deadline."""
        return ServiceUnavailable(
            self.shown_url, self._attempts, f"no range within {self._deadline:g} seconds"
        )


class _Request:
    """The attempts for one range, all in one thread."""

    def __init__(
        self,
        client: Client,
        connections: Connections,
        call: Call,
        mode: str,
        count: int,
        key: str | None,
    ) -> None:
        self._client = client
        self._connections = connections
        self._call = call
        self._mode = mode
        self._count = count
        self._given_key = key
        self._key = key if key or not client._keys else secrets.token_urlsafe(24)
        self._method = client._method
        self._number = 0

    def run(self) -> None:
        """Complete the call, unless `close` has."""
        with contextlib.suppress(InvalidStateError):
            try:
                ids = self._retry()
            except BaseException as error:
                self._call.set_exception(error)
            else:
                self._call.set_result(ids)

    def _retry(self) -> Range:
        attempts = Retrying(
            sleep=sleep_using_event(self._connections.closing),
            stop=stop_after_attempt(self._client._attempts) | stop_before_delay(self._call.left()),
            wait=_wait,
            retry=retry_if_exception_type((AttemptFailed, CachedResponseError)),
            reraise=True,
        )
        try:
            return attempts(self._attempt)
        except AttemptFailed as error:
            shown = self._client.shown_url
            raise ServiceUnavailable(shown, self._number, error.cause) from error.__cause__

    def _attempt(self) -> Range:
        self._number += 1
        if self._connections.closing.is_set():
            raise ClientClosed
        try:
            return self._send()
        except CachedResponseError as error:
            log.log(error.severity, "%s", error)
            if isinstance(error, RepeatedRangeError) and self._key and not self._given_key:
                # The same key would return the same range.
                self._key = secrets.token_urlsafe(24)
            # Most caches store only one of the two methods.
            self._method = "GET" if self._method == "POST" else "POST"
            raise
        except AttemptFailed as error:
            if error.without_key and self._key and not self._given_key:
                log.warning("%s", error.cause)
                self._key = None
            raise

    def _send(self) -> Range:
        client, mode, count = self._client, self._mode, self._count
        nonce = secrets.token_urlsafe(16)
        # In the query: the service then returns the nonce in the document as well, where no proxy
        # drops it, and a cache that heeds the query has a new key.
        url = f"{client._endpoint}?range={count}&mode={quote(mode, safe='')}&nonce={nonce}"
        headers = {**protocol.REQUEST_HEADERS, protocol.CLIENT: client._name}
        if self._key is not None:
            headers[protocol.KEY] = protocol.quoted(self._key)
        auth = None if client._token is None else protocol.bearer(client._token)
        connect, read = (max(0.001, min(limit, self._call.left())) for limit in client._timeout)
        session = self._connections.take(client._new_session)
        began = time.monotonic()
        try:
            response = session.request(
                self._method,
                url,
                headers=headers,
                auth=auth,
                timeout=(connect, read),
                allow_redirects=False,
            )
        except OSError as error:  # The errors of requests are subclasses.
            session.close()
            if isinstance(error, requests.exceptions.InvalidURL):
                raise ValueError(f"url is {client.shown_url!r}: {error}") from None
            raise AttemptFailed(_reason(error, connect, read)) from error
        except BaseException:
            session.close()
            raise
        self._connections.give_back(session)
        body = protocol.document(response)
        stale = protocol.stale_reason(response, body, nonce, time.monotonic() - began)
        if stale is not None:
            raise CachedResponseError(client.shown_url, self._number, stale, response.headers)
        first = protocol.first_id(response, body, count, client.shown_url)
        replayed = response.headers.get(protocol.REPLAYED) == "true"
        if not self._connections.note(mode, first, first + count, self._given_key, replayed):
            reason = f"IDs {first} to {first + count - 1} of mode {mode!r} came a second time"
            raise RepeatedRangeError(client.shown_url, self._number, reason, response.headers)
        return Range(mode, first, first + count - 1)


def environment(options: Options) -> tuple[str]:
    """The URL in the environment; the token's file becomes an option."""
    url = os.environ.get("UNIQUEID_URL", "")
    if not url:
        raise ValueError("UNIQUEID_URL is not set: set it to http://HOST:PORT of the service")
    if file := os.environ.get("UNIQUEID_TOKEN_FILE"):
        options.setdefault("token", lambda: protocol.read_token(file))
    return (url,)


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt."""
    error = state.outcome.exception() if state.outcome is not None else None
    return _BACKOFF(state) + getattr(error, "retry_after", 0)


def _reason(error: BaseException, connect: float, read: float) -> str:
    """Why there was no response, without the URL, which may contain credentials."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {connect:g} seconds"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return f"no answer within {read:g} seconds"
    # The first cause: requests and urllib3 wrap it several times.
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__
