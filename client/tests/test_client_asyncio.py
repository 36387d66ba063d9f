"""The client for asyncio: against the real service, and through a proxy with every fault."""

from __future__ import annotations

import asyncio

import faulty_proxy
import pytest
import servers

from uniqueid_client import AsyncClient, ClientClosed, Range, RequestRefused, ServiceUnavailable


def test_ranges_of_concurrent_tasks_are_disjoint(service: servers.Service, mode: str) -> None:
    """More tasks than the client sends requests at the same time."""

    async def main() -> list[Range]:
        async with AsyncClient(service.url) as client:
            return await asyncio.gather(*(client.get_range(mode, size) for size in range(1, 81)))

    ids = sorted(id for one in asyncio.run(main()) for id in one)
    assert ids == list(range(1, sum(range(1, 81)) + 1))


def test_ids_are_an_asynchronous_iterator(service: servers.Service, mode: str) -> None:
    """In order for one task, and disjoint for several on one iterator."""

    async def take(ids: object, count: int) -> list[int]:
        return [await anext(ids) for _ in range(count)]  # type: ignore[call-overload, misc]

    async def main() -> tuple[list[int], list[list[int]]]:
        async with AsyncClient(service.url) as client:
            alone = []
            async for id in client.ids(mode):
                alone.append(id)
                if len(alone) == 20_000:
                    break
            shared = client.ids(mode, max_step=50)
            return alone, await asyncio.gather(*(take(shared, 500) for _ in range(8)))

    alone, parts = asyncio.run(main())
    assert alone == list(range(1, 20_001))
    ids = alone + [id for part in parts for id in part]
    assert len(ids) == len(set(ids)) == 24_000


def test_the_loop_runs_while_a_range_is_requested(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """And a key brings the same range again."""
    proxy.plan.append(faulty_proxy.HOLD)

    async def main() -> None:
        async with AsyncClient(proxy.url) as client:
            key = "a key of this test" + mode
            task = asyncio.create_task(client.get_range(mode, 5, key=key))
            while not proxy.asked:
                await asyncio.sleep(0.01)
            proxy.release.set()
            assert await task == await client.get_range(mode, 5, key=key) == Range(mode, 1, 5)

    asyncio.run(main())


def test_errors_are_those_of_the_client(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """Rejections, failures and the deadline, for ranges and iterators."""

    async def main() -> None:
        async with AsyncClient(proxy.url, attempts=1, deadline=0.3) as client:
            with pytest.raises(RequestRefused, match="400"):
                await client.get_range(mode, 2_000_000_000)
            with pytest.raises(ValueError, match="count is 0"):
                await client.get_range(mode, 0)
            ids = client.ids(mode)
            proxy.always = faulty_proxy.HOLD
            for wanted in (client.get_range(mode, 1), anext(ids)):
                with pytest.raises(ServiceUnavailable, match="within"):
                    await wanted
            proxy.always = faulty_proxy.PASS
            assert await anext(ids) > 0

    asyncio.run(main())


def test_closing_and_cancelling_end_the_wait(proxy: faulty_proxy.Proxy, mode: str) -> None:
    """Without the response, which the proxy withholds."""
    proxy.always = faulty_proxy.HOLD

    async def main() -> None:
        client = AsyncClient(proxy.url)
        ids = client.ids(mode)
        tasks = [
            asyncio.ensure_future(one)
            for one in (client.get_range(mode, 1), client.get_range(mode, 1), anext(ids))
        ]
        while len(proxy.asked) < 3:
            await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        assert tasks[0].cancelled()
        await client.close()
        for task in tasks[1:]:
            with pytest.raises(ClientClosed):
                await task
        with pytest.raises(ClientClosed):
            await client.get_range(mode, 1)
        with pytest.raises(ClientClosed):
            client.ids(mode)

    asyncio.run(main())
    assert not proxy.release.is_set()
