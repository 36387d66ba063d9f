"""The client for asyncio: the same requests, in the same threads, without blocking the loop."""

from __future__ import annotations

import asyncio
from typing import Self, Unpack

from uniqueid_client.client import GRACE, Client, Options, environment
from uniqueid_client.ids import BaseIDs, Call, Range

MAX_CONCURRENT = 32
"""Requests of one client at the same time; the others wait for their turn."""


class AsyncClient:
    """`Client` for the coroutines of one event loop; the parameters are the same."""

    def __init__(self, url: str, **options: Unpack[Options]) -> None:
        self._client = Client(url, **options)
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    @classmethod
    def from_env(cls, **options: Unpack[Options]) -> Self:
        """As `Client.from_env`."""
        return cls(*environment(options), **options)

    def __repr__(self) -> str:
        return f"Async{self._client!r}"

    async def get_range(self, mode: str, count: int, *, key: str | None = None) -> Range:
        """As `Client.get_range`. If the task is cancelled, the range is a gap."""
        try:
            async with asyncio.timeout(self._client._deadline + GRACE) as limit, self._slots:
                return await asyncio.wrap_future(self._client.start(mode, count, key))
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._client.late() from None

    def ids(self, mode: str, *, min_step: int = 10, max_step: int = 1_000_000) -> AsyncIDs:
        """As `Client.ids`, for `async for` and `anext`."""
        return self._client.register(AsyncIDs(self._client, mode, min_step, max_step))

    async def close(self) -> None:
        """As `Client.close`."""
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


class AsyncIDs(BaseIDs):
    """An endless asynchronous iterator over IDs of a mode; see `AsyncClient.ids`."""

    def __init__(self, client: Client, mode: str, min_step: int, max_step: int) -> None:
        super().__init__(client.start, mode, min_step, max_step)
        self._client = client

    def __aiter__(self) -> AsyncIDs:
        return self

    async def __anext__(self) -> int:
        """The next ID; waits while there is none."""
        while True:
            taken = self._take()
            if type(taken) is int:
                return taken
            assert isinstance(taken, Call)
            try:
                async with asyncio.timeout(taken.left() + GRACE) as limit:
                    await asyncio.wrap_future(taken)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise self._client.late() from None
