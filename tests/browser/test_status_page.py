"""The status page in Chromium, on the running service."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import servers
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from servers import Service, wait_until

from .axe import findings
from .conftest import Open


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with servers.running(Service(f"sqlite:///{tmp_path}/db.sqlite3")) as service:
        assert isinstance(service, Service)
        yield service


def text(page: webdriver.Chrome, selector: str) -> str:
    """What a person reads at an element; empty where there is none."""
    found = page.find_elements(By.CSS_SELECTOR, selector)
    return found[0].get_attribute("innerText") or "" if found else ""


def shown(page: webdriver.Chrome, selector: str, words: str) -> None:
    wait_until(lambda: words in text(page, selector), f"{words!r} at {selector}")


def complaints(page: webdriver.Chrome) -> list[str]:
    """What the browser had to say against the page: errors, and what its policy forbids."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def hosts(page: webdriver.Chrome) -> set[str]:
    """Whom the page has sent requests to."""
    found = set()
    for entry in page.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            # The browser's own first page is of the scheme chrome.
            if url.scheme not in ("data", "chrome"):
                found.add(f"{url.scheme}://{url.netloc}")
    return found


def next_id(service: Service, mode: str) -> str:
    counters = service.get("/status.json")[1]["counters"]
    return next((counter["next_id"] for counter in counters if counter["mode"] == mode), "1")


def add_counters(service: Service, counters: dict[str, int]) -> None:
    """Write counters into the database, as a site that has used them for years."""
    with sqlite3.connect(service.database_url.removeprefix("sqlite:///")) as database:
        database.executemany("INSERT INTO uniqueindex VALUES (?, ?)", counters.items())
    database.close()


def listed(page: webdriver.Chrome) -> list[str]:
    """The modes of the table, in its order."""
    script = "return [...document.querySelectorAll('#counters tbody th')].map(e => e.textContent)"
    return list(page.execute_script(script))


def test_health_speed_and_counters_are_shown(service: Service, browser: Open) -> None:
    """A counter moves on the page without a reload; the header names the instance."""
    service.allocate("file", 1234567)
    # A mode is what a client sends, and no markup.
    service.allocate("<img src=x onerror=alert(1)>", 1)
    page = browser()
    page.get(service.url)
    shown(page, "#health", "Ready: allocates IDs")
    shown(page, "#counters", "1234568")
    shown(page, "#counters", "<img src=x onerror=alert(1)>")
    shown(page, "#facts", "SQLite, a local file")
    assert text(page, "#instance") == socket.gethostname()
    page.execute_script("window.sameDocument = true")
    service.allocate("file", 432)
    shown(page, "#counters", "1235000")
    wait_until(
        lambda: len(page.find_elements(By.CSS_SELECTOR, "#plots svg[role=img] path")) == 6, "plots"
    )
    labels = [svg.get_attribute("aria-label") for svg in page.find_elements(By.TAG_NAME, "svg")]
    assert [str(label).partition(",")[0] for label in labels] == [
        "Requests/s", "IDs/s", "Latency", "Requests in a transaction",
    ]  # fmt: skip
    assert page.execute_script("return window.sameDocument") is True
    assert page.title == f"UniqueID {socket.gethostname()}: Ready: allocates IDs"
    documentation = page.find_element(By.LINK_TEXT, "Documentation").get_attribute("href")
    assert str(documentation).endswith("/docs/operating.md")
    assert complaints(page) == []
    assert hosts(page) == {service.url}


def test_a_lost_connection_is_dated_and_disables_the_button(
    service: Service, browser: Open
) -> None:
    """Missing tables are named as such; so is a service that does not answer."""
    page = browser()
    page.get(service.url)
    shown(page, "#health", "Ready")
    button = page.find_element(By.ID, "take-button")
    wait_until(button.is_enabled, "the button enabled")
    with sqlite3.connect(service.database_url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE uniqueindexsystem")
    database.close()
    shown(page, "#health", "Not ready: rejects requests")
    shown(page, "#problems", "The tables do not match this release")
    shown(page, "#problems", "dbsync")
    service.stop()
    shown(page, "#health", "No answer since ")
    assert text(page, "#health").endswith(" UTC")
    assert page.title.startswith("! ")
    assert not button.is_enabled()
    # The figures stay, with their time.
    shown(page, "#problems", text(page, "#health").removeprefix("No answer since "))
    service.start()
    shown(page, "#health", "Ready")
    wait_until(button.is_enabled, "the button enabled again")


def test_a_database_that_hangs_is_named(browser: Open) -> None:
    """While it accepts connections and answers nothing."""
    server = servers.MariaDB()
    with servers.running(server):
        url = server.url(server.new_database())
        with servers.running(Service(url)) as service:
            assert isinstance(service, Service)
            page = browser()
            page.get(service.url)
            shown(page, "#health", "Ready")
            server.signal(signal.SIGSTOP)
            try:
                # Two polls, and a second in which the database could have answered.
                wait_until(
                    lambda: "The database does not answer" in text(page, "#problems"),
                    "the database named", timeout=15,
                )  # fmt: skip
            finally:
                server.signal(signal.SIGCONT)
            shown(page, "#health", "Ready")


def test_a_counter_that_is_nearly_full_is_a_warning_at_the_top(
    service: Service, browser: Open
) -> None:
    """Above 90%, and exhausted; six and more are counted."""
    service.allocate("idle", 1)
    service.cmd("advance", "--mode", "file", "--to", str(9 * 10**18))
    service.cmd("advance", "--mode", "upload_job", "--to", str(2**63 - 1))
    page = browser()
    page.get(service.url)
    shown(page, "#health", "Ready, with warnings")
    assert text(page, "#problems").splitlines() == [
        "The counter upload_job is exhausted: its requests are rejected",
        "The counter file is 97.6 % full: 223372036854775807 IDs are left",
    ]
    add_counters(service, {f"full{number}": 9 * 10**18 + number for number in range(4)})
    shown(page, "#problems", "1 more counters are above 90 %")
    assert page.title.startswith("! ")


def test_many_counters_can_be_filtered_and_sorted(service: Service, browser: Open) -> None:
    """The first 100, with the number of the rest; by mode, next ID, rate or fullness."""
    add_counters(service, {f"mode{number:03}": 10**15 + number for number in range(500)})
    page = browser()
    page.get(service.url)
    wait_until(lambda: len(listed(page)) == 100, "the counters")
    assert listed(page)[0] == "mode000"
    shown(page, "#counters-note", "And 400 more")
    sort = {
        name: page.find_element(By.CSS_SELECTOR, f"[data-sort={name}]")
        for name in ("mode", "next_id", "rate", "used")
    }
    sort["next_id"].click()
    assert listed(page)[:2] == ["mode499", "mode498"]
    sort["next_id"].click()
    assert listed(page)[0] == "mode000"
    header = sort["next_id"].find_element(By.XPATH, "..")
    assert header.get_attribute("aria-sort") == "ascending"
    sort["rate"].click()
    assert header.get_attribute("aria-sort") is None

    def busy() -> bool:
        service.allocate("mode250", 1000)
        return listed(page)[0] == "mode250"

    wait_until(busy, "the busiest first")
    sort["used"].click()
    assert listed(page)[:2] == ["mode250", "mode499"]
    sort["mode"].click()
    page.find_element(By.ID, "filter").send_keys("MODE25")
    assert listed(page) == [f"mode25{digit}" for digit in range(10)]
    assert "more" not in text(page, "#counters-note")
    page.find_element(By.ID, "filter").send_keys("x")
    assert (listed(page), text(page, "#counters-note")) == ([], "No mode matches the filter.")


def test_a_selection_survives_and_copies_digits(service: Service, browser: Open) -> None:
    """While other numbers of the table change, and the order of its rows would."""
    add_counters(service, {"idle": 9 * 10**18 // 2, "later": 1})
    page = browser()
    page.get(service.url)
    shown(page, "#counters", "later")
    page.find_element(By.CSS_SELECTOR, "[data-sort=rate]").click()
    page.execute_script(
        "const row = [...document.querySelectorAll('#counters tbody tr')]"
        ".find(row => row.firstChild.textContent === 'idle');"
        "getSelection().selectAllChildren(row.children[1]);"
    )

    def selected() -> object:
        return page.execute_script("return getSelection().toString()")

    assert selected() == "4500000000000000000"
    order = listed(page)
    service.allocate("later", 776)
    shown(page, "#counters", "777")
    service.allocate("created", 5)
    shown(page, "#counters", "created")
    assert selected() == "4500000000000000000"
    assert [mode for mode in listed(page) if mode in order] == order
    page.execute_script("getSelection().removeAllRanges()")

    def moved() -> bool:
        service.allocate("later", 1000)
        return listed(page)[0] == "later"

    wait_until(moved, "the busiest first")


def test_plots_say_that_there_is_nothing_yet(service: Service, browser: Open) -> None:
    """And keep their proportions at every width."""
    for width in (1280, 390):
        page = browser(width=width)
        page.get(service.url)
        # Samples come every two seconds.
        wait_until(
            lambda page=page: str(
                page.find_element(By.ID, "plots").get_property("textContent")
            ).count("No requests in the last five minutes") == 4,
            "four empty plots",
        )  # fmt: skip
        for svg in page.find_elements(By.TAG_NAME, "svg"):
            assert svg.size["width"] / svg.size["height"] == pytest.approx(420 / 120, abs=0.05)
            assert "No requests" in str(svg.get_attribute("aria-label"))


class RoundRobin:
    """A load balancer: each connection to the next of several services."""

    def __init__(self, *ports: int) -> None:
        self._ports = itertools.cycle(ports)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._socket.accept()
            except OSError:
                self._socket.close()
                return
            # A browser sends a GET in one piece, and the service closes after its response.
            client.settimeout(1)
            # Nor does a browser always use a connection that it opens.
            with contextlib.suppress(OSError), client:
                request = client.recv(65536)
                with socket.create_connection(("127.0.0.1", next(self._ports))) as server:
                    server.sendall(request)
                    while part := server.recv(65536):
                        client.sendall(part)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def test_behind_a_load_balancer_one_instance_is_shown(
    request: pytest.FixtureRequest, service: Service, browser: Open, tmp_path: Path
) -> None:
    """The page says that it sees several, and does not flicker between them."""
    with servers.running(Service(f"sqlite:///{tmp_path}/other.sqlite3")) as other:
        assert isinstance(other, Service)
        service.allocate("one", 1)
        other.allocate("two", 1)
        balancer = RoundRobin(service.port, other.port)
        request.addfinalizer(balancer.close)
        page = browser()
        page.get(balancer.url)
        wait_until(lambda: listed(page), "the counters")
        shown(page, "#instances", "This address leads to 2 instances")
        (first,) = listed(page)
        page.execute_script(
            "window.seen = new Set();"
            "const modes = () => seen.add([...document.querySelectorAll('#counters tbody th')]"
            ".map(e => e.textContent).join());"
            "new MutationObserver(modes).observe(document.querySelector('#counters'),"
            "{childList: true, subtree: true, characterData: true});"
        )
        shows = service if first == "one" else other
        for number in range(2, 5):
            shows.allocate(first, 1)
            shown(page, "#counters", str(number + 1))
        assert page.execute_script("return [...window.seen]") == [first]


def test_only_the_button_allocates(service: Service, browser: Open) -> None:
    """Looking, typing and Enter in a field do not; the click does what the button says."""
    service.allocate("file", 10)
    page = browser()
    page.get(service.url)
    shown(page, "#counters", "11")
    mode, count = page.find_element(By.ID, "mode"), page.find_element(By.ID, "range")
    mode.clear()
    mode.send_keys("a'b ä")
    count.clear()
    count.send_keys("25", Keys.ENTER)
    button = page.find_element(By.ID, "take-button")
    assert button.text == 'Allocate 25 IDs of "a\'b ä" now'
    assert text(page, "#curl") == (
        f"curl -X POST '{service.url}/getid?range=25&mode=a%27b%20%C3%A4'"
    )
    names = [
        button.text for button in page.find_elements(By.TAG_NAME, "button") if button.is_displayed()
    ]
    assert len(set(names)) == len(names)
    for selector in ("#curl", "#python"):
        page.find_element(By.CSS_SELECTOR, f'[data-copy="{selector[1:]}"]').click()
    assert service.get("/status.json")[1]["counters_total"] == 1
    assert (next_id(service, "file"), text(page, "#taken")) == ("11", "")
    button.click()
    shown(page, "#taken", "Allocated: 1 to 25 of a'b ä")
    shown(page, "#counters", "a'b ä")
    assert next_id(service, "a'b ä") == "26"
    count.clear()
    count.send_keys("x")
    assert not button.is_enabled()
    assert complaints(page) == []


def run_composed(page: webdriver.Chrome, service: Service, **variables: str) -> list[bytes]:
    """What the page's calls for curl and Python print."""
    environment = {**service.environment(), "NO_PROXY": "*", **variables}
    commands = (["sh", "-c", text(page, "#curl")], [sys.executable, "-c", text(page, "#python")])
    return [
        subprocess.run(command, capture_output=True, check=True, env=environment).stdout
        for command in commands
    ]


def test_the_composed_calls_work(service: Service, browser: Open) -> None:
    """What the page writes for curl and Python can be pasted and run."""
    page = browser()
    page.get(service.url)
    mode = page.find_element(By.ID, "mode")
    mode.clear()
    mode.send_keys('it\'s "ä" & $HOME')
    curl, python = run_composed(page, service)
    assert json.loads(curl) == {"startIndex": 1, "endIndex": 10}
    assert b"first=11, last=20" in python


def test_it_can_be_used_with_the_keyboard_alone(service: Service, browser: Open) -> None:
    """Tab reaches everything in the page's order, visibly, and space presses the button."""
    add_counters(service, {"one": 1, "two": 2})
    page = browser()
    page.get(service.url)
    shown(page, "#counters", "two")
    reached = []
    page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the counters"
    for _ in range(30):
        page.switch_to.active_element.send_keys(Keys.TAB)
        element = page.switch_to.active_element
        name = (
            element.get_attribute("id")
            or element.get_attribute("data-copy")
            or f"sort by {element.get_attribute('data-sort')}"
        )
        reached.append(name)
        assert element.value_of_css_property("outline-style") != "none", name
        if name == "take-button":
            break
    wanted = ["filter", "sort by next_id", "mode", "range", "curl", "python", "take-button"]
    assert [name for name in reached if name in wanted] == wanted
    page.switch_to.active_element.send_keys(Keys.SPACE)
    shown(page, "#taken", "Allocated: 1 to 10 of file")


BROKEN_WORDS = """
const broken = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walker.nextNode());) {
  if (node.parentNode.closest("script, code")) continue;
  for (const { 0: word, index } of node.data.matchAll(/\\S+/g)) {
    const range = document.createRange();
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    const tops = new Set([...range.getClientRects()].map((rectangle) => rectangle.top));
    if (word.length <= 25 && tops.size > 1) broken.push(word);
  }
}
for (const cell of document.querySelectorAll("td, dd")) {
  const groups = [...cell.querySelectorAll(".group")];
  if (new Set(groups.map((group) => group.getBoundingClientRect().top)).size > 1) {
    broken.push(cell.textContent);
  }
}
return broken;
"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_light_and_dark_on_a_desk_and_on_a_phone(
    tmp_path: Path, browser: Open, width: int, dark: bool
) -> None:
    """axe-core finds nothing, no word or number is broken, and nothing is wider than the screen:
    at first, with counters that are nearly full, with tokens, and without an answer."""
    names = ("auth", "status")
    for name in names:
        digest = hashlib.sha256(f"{name}-token".encode()).hexdigest()
        (tmp_path / name).write_text(f"{name} {digest}\n")
    settings = {f"{name}_tokens_file": str(tmp_path / name) for name in names}
    with servers.running(Service(f"sqlite:///{tmp_path}/db.sqlite3", **settings)) as service:
        assert isinstance(service, Service)

        def check() -> None:
            assert findings(page) == []
            assert page.execute_script(BROKEN_WORDS) == []
            assert page.execute_script("return document.documentElement.scrollWidth") <= width

        page = browser(width=width, height=800, dark=dark)
        page.get(service.url)
        shown(page, "#health", "A token is needed")
        check()
        page.find_element(By.ID, "token").send_keys("status-token", Keys.ENTER)
        shown(page, "#health", "Ready: allocates IDs")
        check()
        counters = {"a" * 255: 2**62, "instrument_run": 2**63 - 1, "two words": 17}
        add_counters(service, counters | {f"instrument_run_{i:03}": i + 1 for i in range(150)})
        shown(page, "#health", "Ready, with warnings")
        shown(page, "#counters", "9223372036854775807")
        check()
        background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        channels = [int(part) for part in background.strip("rgb()").split(",")]
        assert (sum(channels) < 200) is dark
        service.stop()
        shown(page, "#health", "No answer since")
        check()


def test_with_tokens_it_asks_for_them(tmp_path: Path, browser: Open) -> None:
    """One for the status, one for IDs; each stays in the tab and in no address."""
    names = ("auth", "status")
    for name in names:
        digest = hashlib.sha256(f"{name}-token".encode()).hexdigest()
        (tmp_path / name).write_text(f"{name} {digest}\n")
    settings = {f"{name}_tokens_file": str(tmp_path / name) for name in names}
    with servers.running(Service(f"sqlite:///{tmp_path}/db.sqlite3", **settings)) as service:
        assert isinstance(service, Service)
        page = browser()
        page.get(service.url)
        shown(page, "#health", "A token is needed")
        field = page.find_element(By.ID, "token")
        field.send_keys("auth-token", Keys.ENTER)
        shown(page, "#token-hint", "Invalid token")
        field.clear()
        field.send_keys("status-token", Keys.ENTER)
        shown(page, "#health", "Ready")
        shown(page, "#curl", '-H "Authorization: Bearer $TOKEN"')
        curl, python = run_composed(page, service, TOKEN="auth-token")
        assert json.loads(curl) == {"startIndex": 1, "endIndex": 10}
        assert b"first=11, last=20" in python
        page.find_element(By.ID, "take-button").click()
        shown(page, "#taken", "Rejected: send a token")
        page.find_element(By.ID, "take-token").send_keys("auth-token")
        page.find_element(By.ID, "take-button").click()
        shown(page, "#taken", "Allocated: 21 to 30 of file")
        page.refresh()
        shown(page, "#health", "Ready")
        assert "token" not in page.current_url


def test_the_readme_shows_the_page() -> None:
    """In a picture that is one, and small; screenshot.py beside this file takes it again."""
    picture = servers.CHECKOUT / "docs" / "status.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 300_000
    assert "](docs/status.png)" in (servers.CHECKOUT / "README.md").read_text()
