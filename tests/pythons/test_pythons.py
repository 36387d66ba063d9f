"""Every newer Python of this machine runs the tests that take seconds, from the built wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers import BIN, CHECKOUT

_PROGRAM = (
    "import sys, venv, ensurepip;"
    "assert (3, 11) <= sys.version_info < (3, 15) and sys.implementation.name == 'cpython';"
    "print('.'.join(map(str, sys.version_info[:2])))"
)


def interpreters() -> dict[str, str]:
    """Version to program, of those that Pony supports; this one's tests run anyway."""
    places = [Path(place) for place in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places += sorted(pyenv.glob("versions/*/bin"))
    found: dict[str, str] = {}
    for place in places:
        for program in sorted(place.glob("python3.*")):
            if not re.fullmatch(r"python3\.[0-9]+", program.name):
                continue
            try:
                result = subprocess.run(
                    [str(program), "-c", _PROGRAM], capture_output=True, text=True, check=False
                )
            except OSError:
                continue
            version = result.stdout.strip()
            if result.returncode == 0 and version != "{}.{}".format(*sys.version_info):
                found.setdefault(version, str(program))
    return found


FOUND = interpreters()
TOOLS = ("pytest>=8.2", "hypothesis>=6.100", "openapi-spec-validator>=0.7")
"""What the tests that take seconds import beside the package and its extras."""


def test_this_python_is_a_supported_one() -> None:
    """The other tests ran on it."""
    assert (3, 11) <= sys.version_info[:2] <= (3, 14)


@pytest.mark.parametrize("version", sorted(FOUND))
def test_the_wheel_works_on_another_python(version: str) -> None:
    """In an environment of its own, which is kept for the next run."""
    venv = BIN.parent / "pythons" / version
    python = venv / "bin" / "python"
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*command: str) -> str:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=CHECKOUT, env=environ
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
        return result.stdout

    if not python.exists():
        run(FOUND[version], "-m", "venv", str(venv))
    (wheel,) = (BIN.parent / "dist").glob("pacifica_uniqueid-*.whl")
    (client,) = (BIN.parent / "dist").glob("pacifica_uniqueid_client-*.whl")
    wheels = (str(wheel), str(client))
    run(str(python), "-m", "pip", "install", "-q", f"{wheel}[postgresql]", str(client), *TOOLS)
    run(str(python), "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", *wheels)
    # Not "-m pytest", which would put the checkout in front of what is installed.
    pytest_command = (str(venv / "bin" / "pytest"), "-q", "-p", "no:cacheprovider")
    unit_tests = sorted(map(str, CHECKOUT.glob("tests/test_*.py")))
    for tests in (["--suite=unit", *unit_tests], ["-k", "not distribution", "client/tests"]):
        assert re.search(r"\d+ passed", run(*pytest_command, *tests))
