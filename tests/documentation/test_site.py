"""The documentation site, built as `make docs` does."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from servers import BIN, CHECKOUT

DOCS = CHECKOUT / "docs"
PAGES = sorted(page.stem for suffix in ("md", "rst") for page in DOCS.glob(f"*.{suffix}"))


class Page(HTMLParser):
    """The targets of a page's links, and of those in its navigation, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.navigation: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        target = values.get("href") or values.get("src")
        if target:
            self.links.add(target)
            if "reference internal" in (values.get("class") or ""):
                self.navigation.add(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of Sphinx is an error."""
    place = tmp_path_factory.mktemp("site")
    subprocess.run(
        [BIN / "sphinx-build", "-qW", "--keep-going", "-b", "html", "-d", place / "doctrees",
         DOCS, place / "html"],
        check=True, timeout=300,
    )  # fmt: skip
    return place / "html"


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """From the first page, a reader reaches each in one click."""
    targets = Page(site / "index.html").navigation
    assert {f"{name}.html" for name in PAGES} - {"index.html"} <= targets


def test_no_link_is_broken(site: Path) -> None:
    """Each link within the site leads to a file and to an anchor in it."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (path.name, link)
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, (path.name, link)


def test_the_search_finds_every_page(site: Path) -> None:
    """The index of the search has each page and its words."""
    index = json.loads(
        re.sub(r"^Search\.setIndex\(|\)$", "", (site / "searchindex.js").read_text("utf-8"))
    )
    assert set(PAGES) == set(index["docnames"])
    assert "idempot" in index["terms"]


def test_the_http_reference_has_every_operation(site: Path) -> None:
    """Each operation and schema of the service's description is a section."""
    description = json.loads((CHECKOUT / "uniqueid/web/openapi.json").read_text("utf-8"))
    text = (site / "http-reference.html").read_text("utf-8")
    headings = {
        re.sub(r"<[^>]*>", "", heading).removesuffix("¶")
        for heading in re.findall(r"<h[23]>(.*?)<a class=\"headerlink", text)
    }
    operations = {
        f"{method.upper()} {path}" for path, item in description["paths"].items() for method in item
    }
    assert operations | set(description["components"]["schemas"]) <= headings


def test_the_client_reference_has_every_public_name(site: Path) -> None:
    """What `from uniqueid_client import *` imports."""
    import uniqueid_client

    anchors = Page(site / "client-reference.html").anchors
    for name in set(uniqueid_client.__all__) - {"__version__"}:
        assert f"uniqueid_client.{name}" in anchors
