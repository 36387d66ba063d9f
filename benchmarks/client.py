"""IDs a second through the Python client's iterator, against a service that this starts.

Run it with ``.venv/bin/python benchmarks/client.py``. First it proves that no ID came twice, then
it prints the speed.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import deque
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import servers

from uniqueid_client import Client

COUNT = 3_000_000


def main() -> None:
    """Measure one thread and four."""
    with tempfile.TemporaryDirectory() as directory:
        service = servers.Service(f"sqlite:///{directory}/db.sqlite3")
        with servers.running(service), Client(service.url) as client:
            checked = list(islice(client.ids("checked"), COUNT))
            assert len(set(checked)) == COUNT, "an ID came twice"
            assert all(isinstance(id, int) and id > 0 for id in checked)
            del checked
            print(f"{COUNT} IDs, none twice")

            ids = client.ids("one")
            began = time.perf_counter()
            deque(islice(ids, COUNT), 0)
            print(f"1 thread, from cold: {COUNT / (time.perf_counter() - began):,.0f} IDs/s")
            began = time.perf_counter()
            deque(islice(ids, COUNT), 0)
            print(f"1 thread, warm: {COUNT / (time.perf_counter() - began):,.0f} IDs/s")

            threads = [
                threading.Thread(target=lambda: deque(islice(ids, COUNT // 4), 0)) for _ in range(4)
            ]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(f"4 threads: {COUNT / (time.perf_counter() - began):,.0f} IDs/s")

            began = time.perf_counter()
            for _ in range(2_000):
                client.get_range("range", 1)
            took = time.perf_counter() - began
            print(f"get_range, 1 thread: {2_000 / took:,.0f} requests/s")


if __name__ == "__main__":
    main()
