"""axe-core, installed once into `.venv`, and what it finds on a page."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
from pathlib import Path

from selenium import webdriver
from servers import CHECKOUT

_LOCK = Path(__file__).resolve().parent / "axe"
_HOME = CHECKOUT / ".venv/tools/axe"


@functools.cache
def _script() -> str:
    _HOME.mkdir(parents=True, exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_LOCK / name, _HOME)
        # The lock has the hash of the package.
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(command, cwd=_HOME, check=True, stdout=subprocess.DEVNULL)
        return (_HOME / "node_modules/axe-core/axe.min.js").read_text()


def findings(page: webdriver.Chrome) -> list[str]:
    """Each rule of WCAG 2.2 AA and of good practice that the page violates, with the elements."""
    page.execute_script(_script())
    found = page.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        axe.run().then((result) => done(result.violations), (error) => done([
          {id: "error", help: String(error), nodes: []}]));
        """
    )
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'] for node in rule['nodes']]}"
        for rule in found
    ]
