"""The status page in Chromium, on the running service."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
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


def test_one_look_tells_whether_it_is_well(service: Service, browser: Open) -> None:
    """How fast, how full, and live: a counter moves on the page without a reload."""
    service.allocate("file", 1234567)
    # A mode is what a client says, and no markup.
    service.allocate("<img src=x onerror=alert(1)>", 1)
    page = browser()
    page.get(service.url)
    shown(page, "#health", "Ready: hands out IDs")
    shown(page, "#counters", "1 234 568")
    shown(page, "#counters", "<img src=x onerror=alert(1)>")
    shown(page, "#facts", "SQLite, a local file")
    page.execute_script("window.sameDocument = true")
    service.allocate("file", 432)
    shown(page, "#counters", "1 235 000")
    wait_until(
        lambda: len(page.find_elements(By.CSS_SELECTOR, "#plots svg[role=img] path")) == 6, "plots"
    )
    labels = [svg.get_attribute("aria-label") for svg in page.find_elements(By.TAG_NAME, "svg")]
    assert [str(label).partition(",")[0] for label in labels] == [
        "Requests/s", "IDs/s", "Latency", "Requests in a transaction",
    ]  # fmt: skip
    assert page.execute_script("return window.sameDocument") is True
    assert page.title == "UniqueID: Ready: hands out IDs"
    assert complaints(page) == []
    assert hosts(page) == {service.url}


def test_what_is_wrong_is_said_in_words(service: Service, browser: Open) -> None:
    """Tables that are gone, and a service that does not answer, each as itself."""
    page = browser()
    page.get(service.url)
    shown(page, "#health", "Ready")
    with sqlite3.connect(service.database_url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE uniqueindexsystem")
    shown(page, "#health", "Not ready: refuses requests")
    shown(page, "#problems", "The tables do not fit this release")
    shown(page, "#problems", "dbsync")
    service.stop()
    shown(page, "#health", "No answer from the service")
    assert page.title.startswith("! ")


def test_only_the_button_takes_ids(service: Service, browser: Open) -> None:
    """Looking, typing and Enter in a field take none; the click takes what the button says."""
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
    assert button.text == 'Take 25 IDs of "a\'b ä" now'
    assert text(page, "#curl") == (
        f"curl -X POST '{service.url}/getid?range=25&mode=a%27b%20%C3%A4'"
    )
    assert text(page, "#python") == (
        f'uniqueid.client.Client("{service.url}/").get_range("a\'b ä", 25)'
    )
    for selector in ("#curl", "#python"):
        page.find_element(By.CSS_SELECTOR, f'[data-copy="{selector[1:]}"]').click()
    assert service.get("/status.json")[1]["counters_total"] == 1
    assert (next_id(service, "file"), text(page, "#taken")) == ("11", "")
    button.click()
    shown(page, "#taken", "Taken: 1 to 25 of a'b ä")
    shown(page, "#counters", "a'b ä")
    assert next_id(service, "a'b ä") == "26"
    count.clear()
    count.send_keys("x")
    assert not button.is_enabled()
    assert complaints(page) == []


def test_the_composed_calls_work(service: Service, browser: Open) -> None:
    """What the page writes for curl and Python can be pasted and run."""
    page = browser()
    page.get(service.url)
    mode = page.find_element(By.ID, "mode")
    mode.clear()
    mode.send_keys('it\'s "ä" & $HOME')
    environment = {**service.environment(), "NO_PROXY": "*"}
    done = subprocess.run(
        ["sh", "-c", text(page, "#curl")], capture_output=True, check=True, env=environment
    )
    assert json.loads(done.stdout) == {"startIndex": 1, "endIndex": 10}
    program = f"import uniqueid.client; print({text(page, '#python')})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env=environment
    )
    assert b"first=11, last=20" in done.stdout


def test_it_can_be_used_with_the_keyboard_alone(service: Service, browser: Open) -> None:
    """Tab reaches everything in the page's order, visibly, and space presses the button."""
    page = browser()
    page.get(service.url)
    shown(page, "#health", "Ready")
    reached = []
    for _ in range(20):
        page.switch_to.active_element.send_keys(Keys.TAB)
        element = page.switch_to.active_element
        name = element.get_attribute("id") or element.get_attribute("data-copy") or element.text
        reached.append(name)
        if len(reached) > 1:
            assert element.value_of_css_property("outline-style") != "none", name
        if name == "take-button":
            break
    assert [name for name in reached if name in ("mode", "range", "curl", "python")] == [
        "mode", "range", "curl", "python",
    ]  # fmt: skip
    assert reached[0] == "Skip to the counters"
    page.switch_to.active_element.send_keys(Keys.SPACE)
    shown(page, "#taken", "Taken: 1 to 10 of file")


def luminance(color: str) -> float:
    """Of a CSS color, by WCAG 2.2."""
    parts = [float(part) / 255 for part in color.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


COLORS = """
const found = {};
for (const selector of arguments[0]) {
  const element = document.querySelector(selector);
  let behind = element;
  const back = (of) => getComputedStyle(of).backgroundColor;
  while (back(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  found[selector] = [getComputedStyle(element).color, back(behind)];
}
return found;
"""


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_light_and_dark_on_a_desk_and_on_a_phone(
    service: Service, browser: Open, width: int, dark: bool
) -> None:
    """Contrast of 4.5 or more, nothing wider than the screen, and targets for a finger."""
    service.allocate("a" * 200, 2**30 - 1 - 73741824)
    page = browser(width=width, height=800, dark=dark)
    page.get(service.url)
    shown(page, "#counters", "aaa")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    selectors = [
        "body",
        "#health",
        "dt",
        "dd",
        "th",
        "td",
        "label",
        "#take-button",
        ".hint",
        "footer a",
        "code",
    ]
    selectors += ["figcaption .c0", "figcaption .c1", "figcaption .c2"]
    for selector, (front, back) in page.execute_script(COLORS, selectors).items():
        high, low = sorted((luminance(front), luminance(back)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (selector, front, back)
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.2) is dark
    for button in page.find_elements(By.TAG_NAME, "button"):
        if button.is_displayed():
            assert button.size["height"] >= 24


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
        shown(page, "#token-hint", "does not count")
        field.clear()
        field.send_keys("status-token", Keys.ENTER)
        shown(page, "#health", "Ready")
        page.find_element(By.ID, "take-button").click()
        shown(page, "#taken", "Not taken: send a token")
        page.find_element(By.ID, "take-token").send_keys("auth-token")
        assert "$TOKEN" in text(page, "#curl")
        page.find_element(By.ID, "take-button").click()
        shown(page, "#taken", "Taken: 1 to 10 of file")
        page.refresh()
        shown(page, "#health", "Ready")
        assert "token" not in page.current_url


def test_the_api_can_be_read(service: Service, browser: Open) -> None:
    """Swagger UI draws the description, from here alone, and offers no way to take IDs."""
    page = browser()
    page.get(f"{service.url}/docs")
    shown(page, "#api", "/getid")
    shown(page, "#api", "Pacifica UniqueID")
    page.find_element(By.CSS_SELECTOR, "#operations-default-takeIds button").click()
    shown(page, "#api", "How many IDs")
    assert "Try it out" not in text(page, "#api")
    assert complaints(page) == []
    assert hosts(page) == {service.url}


def test_the_readme_shows_the_page() -> None:
    """In a picture that is one, and small; screenshot.py beside this file takes it anew."""
    picture = servers.CHECKOUT / "docs" / "status.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 300_000
    assert "](docs/status.png)" in (servers.CHECKOUT / "README.md").read_text()
