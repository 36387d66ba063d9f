"""README.md and docs/ say what there is, and what they say runs."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import network
import pytest
import servers
from fakes import FakeAllocator
from servers import BIN, CHECKOUT

from uniqueid import config
from uniqueid.commands import cli
from uniqueid.monitoring import metrics
from uniqueid.web import app, parameters, status
from uniqueid_client import __main__ as client

PAGES = sorted(
    page for place in ("*.md", "client/*.md", "docs/**/*.md") for page in CHECKOUT.glob(place)
)
NAMES = [str(page.relative_to(CHECKOUT)) for page in PAGES]


def text_of(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def everything() -> str:
    """All pages but the history."""
    return "\n".join(text_of(name) for name in NAMES if "CHANGELOG" not in name)


# -- what there is --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", config.rows(), ids=lambda row: row.name)
def test_every_setting_is_documented(row: config.Row) -> None:
    """Section, names, variables and default stand in one row of docs/configuration.md."""
    lines = [
        line
        for line in text_of("docs/configuration.md").splitlines()
        if line.startswith(f"| `[{row.section}]` `{row.keys[0]}`")
    ]
    assert len(lines) == 1
    (line,) = lines
    for name in (*row.keys, row.variable, *row.legacy_variables):
        assert f"`{name}`" in line
    assert f"| `{row.default}` |" in line if row.default else "| (empty) |" in line
    assert " ".join(row.help.split()) in line


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command and subcommand with its parser."""
    for parser in (cli._parser(), cli._serve_parser(), client.parser()):
        yield parser.prog, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    yield f"{parser.prog} {name}", sub


@pytest.mark.parametrize(("command", "parser"), list(parsers()), ids=lambda value: str(value)[:40])
def test_every_command_and_option_is_documented(
    command: str, parser: argparse.ArgumentParser
) -> None:
    """A page names the command as one types it, and its options."""
    pages = " ".join(everything().split())
    assert command in pages
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        for option in action.option_strings:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", pages), option


def test_every_route_is_documented() -> None:
    """Each path with its methods is in the table of docs/http.md."""
    routes: dict[str, set[str]] = {}
    counted = metrics.Metrics()
    page = status.Status(counted, {}, {})
    made = app.make_app(
        FakeAllocator(), parameters.Limits(), metrics=counted, status=page, description={}
    )
    for route in made.routes:
        if route.callback.__name__ != "reject":
            routes.setdefault(route.rule, set()).add(route.method)
    assert routes["/getid"] == {"GET", "POST"}
    documented: dict[str, set[str]] = {}
    for line in text_of("docs/http.md").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1].startswith("`/"):
            for path in re.findall(r"`(/\S*)`", cells[1]):
                documented[path] = set(re.findall(r"[A-Z]+", cells[2]))
    assert documented == routes


def test_the_architecture_names_files_that_exist() -> None:
    """Tests and modules, as paths from the root of the repository or of the package."""
    named = re.findall(r"`([a-z_/]+(?:\.py|\.pml|/[a-z_]+))`", text_of("docs/architecture.md"))
    assert len(named) > 20
    for path in named:
        assert (CHECKOUT / path).exists() or (CHECKOUT / "uniqueid" / path).exists(), path


def test_every_variable_beside_the_settings_is_documented() -> None:
    """Those that name files are no settings and have no row."""
    for name in ("UNIQUEID_CONFIG", "UNIQUEID_CPCONFIG", "UNIQUEID_LISTEN", "UNIQUEID_URL"):
        assert f"`{name}`" in everything()


def test_the_sample_file_is_the_one_that_is_shown() -> None:
    """docs/server.md quotes docs/server.conf."""
    sample = [line for line in text_of("docs/server.conf").splitlines() if line[:1] != "#"]
    assert "\n".join(sample).strip() in text_of("docs/server.md")


@pytest.mark.parametrize("name", NAMES)
def test_every_link_to_a_file_leads_to_one(name: str) -> None:
    """Relative links, in every page."""
    page = CHECKOUT / name
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


# -- what runs ------------------------------------------------------------------------------------

# Blocks of these languages are not commands to type: transcripts, settings, output.
OTHER = {
    "mermaid",
    "console",
    "text",
    "ini",
    "python",
    "json",
    "yaml",
    "nginx",
    "http",
    "toml",
    "sql",
    "",
}
SERVERS = ("uwsgi ", "pacifica-uniqueid ")


def blocks(name: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block, wherever it is indented to."""
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    for indent, language, text in fence.findall(text_of(name)):
        yield language, "\n".join(line.removeprefix(indent) for line in text.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_every_block_says_what_it_is(name: str) -> None:
    """A block is ``sh`` and runs here, or of another known language."""
    assert text_of(name).count("```") % 2 == 0
    assert {language for language, _text in blocks(name)} <= {"sh", *OTHER}


class Reader:
    """A user who types the commands of a page, one after the other, in one directory."""

    def __init__(self, directory: Path, net: network.Network) -> None:
        self.directory = directory
        self.net = net
        self.server: subprocess.Popen[bytes] | None = None
        self.serving = ""
        for file in ("config.cfg", "uwsgi.ini", "docs/server.conf"):
            shutil.copy(CHECKOUT / file, directory)
        # A move to another database needs two files.
        for place in ("old", "new"):
            url = f"sqlite:///{directory}/{place}.sqlite3"
            (directory / f"{place}.cfg").write_text(f"[database]\nurl = {url}\n")
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin"}

    def type(self, command: str) -> None:
        if command.startswith("make "):
            # The target is there. Run, it would run these tests, or build what they run in.
            subprocess.run(
                ["make", "-n", *command.split()[1:]], check=True, cwd=CHECKOUT, capture_output=True
            )
        elif command.startswith("pip install"):
            # Runs in tests/compatibility, where it does not change what the tests run in.
            assert "pacifica-uniqueid" in command or command == "pip install ."
        elif (command.startswith("cd ") and "&& uwsgi" in command) or f"{command} ".startswith(
            SERVERS
        ):
            self.stop()
            self.serve(command)
        else:
            if "localhost:8051" in command and self.server is None:
                self.serve("uwsgi --ini uwsgi.ini")
            if "old.cfg" in command:
                self.run("pacifica-uniqueid-cmd -c old.cfg dbsync")
            done = self.run(command)
            assert done.returncode == 0, (command, done.stdout, done.stderr)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.net.prefix, "sh", "-ec", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=servers.START_TIMEOUT,
            check=False,
        )

    def serve(self, command: str) -> None:
        if not (self.directory / "db.sqlite3").exists():
            assert self.run("pacifica-uniqueid-cmd dbsync").returncode == 0
        self.serving = command
        with (self.directory / "log").open("ab") as log:
            self.server = subprocess.Popen(
                [*self.net.prefix, "sh", "-c", re.sub(r"^(cd .* && |)", r"\1exec ", command)],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

        def up() -> bool:
            assert self.server is not None
            assert self.server.poll() is None, (self.directory / "log").read_text()[-4000:]
            return self.run("curl -fsS http://localhost:8051/").returncode == 0

        servers.wait_until(up, command)

    def stop(self) -> None:
        if self.server is not None:
            network.end(self.server, self.serving)
            self.server = None


def commands(block: str) -> list[str]:
    """What to run at once of a block: the whole, unless a line of it needs to be looked at."""
    lines = block.replace("\\\n", " ").splitlines()
    if not any(f"{line} ".startswith(("make ", "pip ", *SERVERS)) for line in lines):
        return [block]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if any(language == "sh" for language, _ in blocks(name))]
)
def test_every_command_line_runs(name: str, tmp_path: Path) -> None:
    """In the page's order, in a directory with the shipped files, and with exit status 0."""
    with network.Network() as net:
        reader = Reader(tmp_path, net)
        try:
            for language, block in blocks(name):
                if language == "sh":
                    for command in commands(block):
                        reader.type(command)
        finally:
            reader.stop()


@pytest.mark.parametrize("name", ["README.md", "docs/first-id.md"])
def test_every_transcript_is_what_the_service_returns(name: str, tmp_path: Path) -> None:
    """The commands behind `$` in the page's order, on a new database, with their whole output."""
    transcripts = "\n".join(text for language, text in blocks(name) if language == "console")
    pairs = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", transcripts, re.MULTILINE)
    pairs = [(command, output) for command, output in pairs if "localhost:8051" in command]
    assert len(pairs) >= 2
    with network.Network() as net:
        reader = Reader(tmp_path, net)
        try:
            reader.serve("uwsgi --ini uwsgi.ini")
            for command, output in pairs:
                printed = reader.run(command.replace("curl ", "curl -s ", 1)).stdout
                assert output.startswith(printed.strip()), command
                assert printed.strip()
        finally:
            reader.stop()
