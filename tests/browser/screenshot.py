"""Takes docs/status.png: python tests/browser/screenshot.py"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import servers

from browser import conftest

SECONDS = 300
MODES = {"file": 40, "upload_job": 1, "proposal": 3, "instrument_run": 250}


def load(service: servers.Service, number: int, end: float) -> None:
    """One client, with pauses that make the plots look like a working day."""
    while time.monotonic() < end:
        for mode, count in MODES.items():
            service.allocate(mode, count + number)
        time.sleep(0.04 + 0.03 * (int(time.monotonic() / 20) % 3))


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="uniqueid-screenshot-"))
    service = servers.Service(f"sqlite:///{directory}/db.sqlite3")
    browsers = conftest.browser.__wrapped__(directory)
    with servers.running(service):
        end = time.monotonic() + SECONDS
        clients = [threading.Thread(target=load, args=(service, n, end)) for n in range(12)]
        for client in clients:
            client.start()
        page = next(browsers)(width=1100, height=1230)
        page.get(service.url)
        while time.monotonic() < end - 3:
            time.sleep(1)
        page.save_screenshot(str(servers.CHECKOUT / "docs" / "status.png"))
        for client in clients:
            client.join()
    browsers.close()


if __name__ == "__main__":
    main()
