"""Takes IDs for a while and prints what it got, as one JSON object. Standard library only: it runs
in the service's own image, as `python3 -c`.

Arguments: URL, mode, threads, seconds, the most requests.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request


def main(url: str, mode: str, threads: int, seconds: float, most: int) -> dict[str, object]:
    """Ask until the time is over or there were enough; ranges and failures."""
    end = time.monotonic() + seconds
    ranges: list[tuple[int, int]] = []
    failures: list[str] = []
    lock = threading.Lock()
    left = [most]

    def ask(number: int) -> None:
        while time.monotonic() < end:
            with lock:
                if left[0] == 0:
                    return
                left[0] -= 1
            try:
                target = f"{url}/getid?range={number % 7 + 1}&mode={mode}"
                with urllib.request.urlopen(target, timeout=30) as response:
                    answer = json.load(response)
                with lock:
                    ranges.append((answer["startIndex"], answer["endIndex"]))
            except (OSError, ValueError) as error:
                with lock:
                    failures.append(str(error))
                # No server is there: wait a moment, so that the requests last for the time.
                time.sleep(0.1)

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"ranges": sorted(ranges), "failures": failures}


if __name__ == "__main__":
    print(
        json.dumps(
            main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
        )
    )
