"""The shipped uWSGI settings on each database, under many clients."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import servers


def test_64_clients_get_disjoint_ranges_without_gap_or_error(database_url: str) -> None:
    """No ID is allocated twice, none is lost, and every response is a 200."""
    service = servers.Service(database_url)
    with servers.running(service):

        def client(number: int) -> list[tuple[str, int, int]]:
            ranges = []
            for step in range(25):
                mode = ("file", "upload_job", "päth ☃")[(number + step) % 3]
                first, last = service.allocate(mode, 1 + (number * 7 + step) % 20)
                assert last - first == (number * 7 + step) % 20
                ranges.append((mode, first, last))
            return ranges

        with ThreadPoolExecutor(64) as pool:
            answers = [item for result in pool.map(client, range(64)) for item in result]
    assert len(answers) == 64 * 25
    for mode in {mode for mode, _first, _last in answers}:
        ranges = sorted((first, last) for name, first, last in answers if name == mode)
        expected = 1
        for first, last in ranges:
            assert first == expected
            expected = last + 1
