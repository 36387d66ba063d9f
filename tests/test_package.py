"""What is tested is what ships."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from servers import CHECKOUT

import uniqueid


def test_the_tests_run_on_the_installed_wheel() -> None:
    """Not on the checkout they lie in."""
    assert CHECKOUT / "uniqueid" not in Path(uniqueid.__file__).resolve().parents
    assert metadata.version("pacifica-uniqueid") == uniqueid.__version__


def test_the_version_stands_in_one_place() -> None:
    """And the changelog knows it."""
    assert f"## {uniqueid.__version__}" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_importing_opens_nothing() -> None:
    """No file, no socket, no database, no thread; only wsgi.py is there to open things."""
    program = """
import importlib, pkgutil, sys, threading
import requests  # whose own import tries whether there is IPv6
opened = []
sys.addaudithook(lambda event, args: opened.append((event, args)) if event in (
    "socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen") else None)
import uniqueid
for module in pkgutil.iter_modules(uniqueid.__path__):
    if module.name != "wsgi":
        importlib.import_module("uniqueid." + module.name)
assert opened == [], opened
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
