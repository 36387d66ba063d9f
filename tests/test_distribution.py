"""The distributions of service and client: what they contain, and what they install."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from servers import BIN, CHECKOUT

PLACES = {"pacifica_uniqueid": CHECKOUT, "pacifica_uniqueid_client": CHECKOUT / "client"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The sdist of each distribution, and the wheel that is built from it."""
    files = {}
    # pip's settings are in the real home directory.
    environment = {**os.environ, "HOME": pwd.getpwuid(os.getuid()).pw_dir}
    for name, place in PLACES.items():
        directory = tmp_path_factory.mktemp(name)
        source = directory / "source"
        # A copy: setuptools writes beside the sources.
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "."], cwd=place, capture_output=True
        )
        names = listed.stdout.decode().split("\n") if listed.returncode == 0 else []
        for file in names or [str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()]:
            if (place / file).is_file():
                (source / file).parent.mkdir(parents=True, exist_ok=True)
                (source / file).write_bytes((place / file).read_bytes())
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "-o", str(directory), str(source)],
            check=True,
            capture_output=True,
            env=environment,
        )
        files[name] = [next(directory.glob("*.tar.gz")), next(directory.glob("*.whl"))]
    return files


@pytest.mark.parametrize("name", PLACES)
def test_a_package_index_accepts_it(built: dict[str, list[Path]], name: str) -> None:
    """twine and check-wheel-contents have no complaint."""
    sdist, wheel = map(str, built[name])
    for command in (
        [str(BIN / "twine"), "check", "--strict", sdist, wheel],
        [
            str(BIN / "check-wheel-contents"),
            "--config",
            str(PLACES[name] / "pyproject.toml"),
            wheel,
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_sample_files_are_in_the_wheel(built: dict[str, list[Path]]) -> None:
    """As they are in the top directory; `pacifica-uniqueid-cmd init` writes them."""
    with zipfile.ZipFile(built["pacifica_uniqueid"][1]) as wheel:
        for name in ("config.cfg", "uwsgi.ini"):
            assert wheel.read(f"uniqueid/{name}") == (CHECKOUT / name).read_bytes()
        assert {"uniqueid/py.typed", "pacifica/uniqueid/wsgi.py"} <= set(wheel.namelist())


def test_the_sdist_has_all_that_the_tests_need(
    built: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Every file of the repository that is no habit of its host, and tests run from it."""
    # Not tarfile: Python's patch releases differ in what its extractall() wants.
    sdist = str(built["pacifica_uniqueid"][0])
    subprocess.run(["tar", "-xf", sdist, "--no-same-owner", "-C", str(tmp_path)], check=True)
    (top,) = tmp_path.iterdir()
    listed = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        absent = [file for file in listed.stdout.split("\n") if file and not (top / file).exists()]
        assert [file for file in absent if (CHECKOUT / file).exists()] == []
    tests = ["tests/test_validation.py", "tests/test_config.py", "client/tests/test_client_keys.py"]
    command = [str(BIN / "pytest"), "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
    assert re.search(r"\d+ passed", done.stdout), done.stdout + done.stderr


def installed(name: str, extras: set[str]) -> set[str]:
    """The distributions that pip installs for one, of those in this environment."""
    found: set[str] = set()
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        if canonicalize_name(name) in found and not extras:
            continue
        found.add(canonicalize_name(name))
        for text in metadata.requires(name) or ():
            need = Requirement(text)
            if any(not need.marker or need.marker.evaluate({"extra": e}) for e in extras or {""}):
                waiting.append((need.name, need.extras))
    return found


def test_a_plain_install_is_small() -> None:
    """At most 16 distributions for the service, 9 for the client; each with an upper bound."""
    assert len(installed("pacifica-uniqueid", set())) <= 16
    assert len(installed("pacifica-uniqueid-client", set())) <= 9
    for name in ("pacifica-uniqueid", "pacifica-uniqueid-client"):
        for text in metadata.requires(name) or ():
            need = Requirement(text)
            extra = text.partition(";")[2]
            # Of the extras, those that users install.
            if "test" not in extra and "docs" not in extra:
                assert any(one.operator == "<" for one in need.specifier), text


@pytest.mark.parametrize("name", PLACES)
def test_links_of_the_readme_work_on_a_package_index(
    built: dict[str, list[Path]], name: str
) -> None:
    """They are absolute there, and lead to files of this repository."""
    with zipfile.ZipFile(built[name][1]) as wheel:
        (file,) = [file for file in wheel.namelist() if file.endswith(".dist-info/METADATA")]
        text = wheel.read(file).decode()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    for target in targets:
        assert re.match(r"https?://|#", target), target
        if "/master/" in target:
            assert (CHECKOUT / re.sub(r"^.*?/master/|#.*$", "", target)).exists(), target
