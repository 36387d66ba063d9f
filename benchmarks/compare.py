"""CPU time per request, rate and p99 of two revisions of the service, compared in one run.

    .venv/bin/python benchmarks/compare.py --before main --after . --at-most 1.05

The wheel of each revision is installed into a directory of its own, and served by the uwsgi.ini of
that revision; uWSGI and all other packages are those of this environment. Each revision has a fresh
database of its own on the same database server. Before anything is measured, all ranges of each are
proven to be disjoint. Only ratios within a round are compared. Each median ratio is printed with
its 95% confidence interval: more rounds make it narrower.

A round measures the two in turns, in alternating order, and then together: both under load at the
same time, on the same CPU. The speed of a shared machine changes from one second to the next, which
disturbs the ratio of two measurements in turns, but hardly that of two at the same time. The latter
is therefore the ratio of the CPU time per request that counts. The CPU time itself is higher there
than in turns, for both: each evicts what the other has in the CPU's caches.

The exit status is 1 if an ID was returned twice, if a request failed, or if the median ratio of the
CPU time per request, together, is above `--at-most`, or the whole interval of the one in turns is.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from bench import SATURATED, Contestant, Load, measure, prove
from peers import Ours, pinned, place, servers

CHECKOUT = servers.CHECKOUT
DATABASES = {"sqlite": "SQLite", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}


@dataclass(frozen=True)
class Revision:
    """The source of a revision of the service, and its installed wheel."""

    name: str
    source: Path
    target: Path


class RevisionService(Ours):
    """A revision of the service, with the uwsgi.ini and the commands of that revision."""

    def __init__(self, revision: Revision, database_url: str, cpu: int | None) -> None:
        super().__init__(database_url, cpu)
        self.ini = revision.source / "uwsgi.ini"
        self.commands = revision.target / "bin"
        self.target = revision.target

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.target)}


def install(name: str, directory: Path) -> Revision:
    """Build and install the wheel of a revision.

    :param name: the path of a checkout, or else a git revision of this one.
    :param directory: is created; its name is part of the revision's.
    """
    source, target = directory / "source", directory / "target"
    if (Path(name) / "setup.py").is_file():
        # A copy: an earlier build is not packed, and this one leaves nothing in the checkout.
        ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
        shutil.copytree(name, source, ignore=ignored)
    else:
        source.mkdir(parents=True)
        archive = directory / "source.tar"
        git = ["git", "-C", str(CHECKOUT)]
        commit = subprocess.run(
            [*git, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}"],
            check=False,
            capture_output=True,
            text=True,
        )
        if commit.returncode:
            sys.exit(
                f"{name}: neither a checkout of the service (a directory with a setup.py) nor a"
                f" git revision of {CHECKOUT}: {commit.stderr.strip()}"
            )
        subprocess.run([*git, "archive", "-o", str(archive), commit.stdout.strip()], check=True)
        subprocess.run(["tar", "-xf", str(archive), "-C", str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    if subprocess.run([*pip, *options, str(source)], check=False).returncode:
        sys.exit(f"{name}: pip could not build and install its wheel; its message is above")
    return Revision(f"{directory.name} ({name})", source, target)


def start_databases(
    stack: ExitStack, names: list[str], load: set[int]
) -> dict[str, tuple[servers.Process | None, Callable[[], str]]]:
    """Start the database servers; for each name its server and a source of fresh databases."""
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    numbers = iter(range(sys.maxsize))
    found: dict[str, tuple[servers.Process | None, Callable[[], str]]] = {}
    for name in names:
        if name == "sqlite":
            found[name] = (None, lambda: f"sqlite:///{directory}/{next(numbers)}.sqlite3")
            continue
        server = servers.MariaDB() if name == "mariadb" else servers.PostgreSQL()
        stack.callback(server.remove)
        with pinned(load):
            server.start()
        found[name] = (server, partial(_new_url, server))
    return found


def _new_url(server: servers.MariaDB | servers.PostgreSQL) -> str:
    return server.url(server.new_database())


@dataclass
class Pair:
    """Both revisions on databases of one kind."""

    before: Contestant
    after: Contestant

    def __post_init__(self) -> None:
        # The same servers; what is measured of both under load at the same time is kept apart.
        self.together = replace(self.before, loads={}), replace(self.after, loads={})

    def both(self) -> tuple[Contestant, Contestant]:
        return self.before, self.after

    def proven(self) -> list[str]:
        """The numbers of checked answers."""
        return [
            f"{item.database}, {item.name}: {item.answers} answers checked, 0 IDs twice"
            for item in self.both()
        ]

    def failures(self) -> list[str]:
        """Duplicates, errors and missing answers, as sentences."""
        lines = []
        for item, twin in zip(self.both(), self.together, strict=True):
            what = f"{item.database}, {item.name}"
            if item.duplicates:
                lines.append(f"{what}: {item.duplicates} IDs were returned twice")
            if errors := item.errors + twin.errors:
                lines.append(f"{what}: {errors} requests failed")
            if not item.answers:
                lines.append(f"{what}: no request was answered")
        return lines


@dataclass
class Rounds:
    """The loads of both revisions; those of one round have the same index."""

    before: list[Load]
    after: list[Load]

    def ratios(self, figure: str) -> list[float]:
        """After to before in each round; 1 where both are equal."""
        pairs = zip(self.before, self.after, strict=True)
        values = [(getattr(old, figure), getattr(new, figure)) for old, new in pairs]
        return [1.0 if old == new else new / max(old, 1e-9) for old, new in values]

    def medians(self, figure: str) -> tuple[float, float]:
        """Before and after."""
        old, new = (
            statistics.median(getattr(load, figure) for load in loads)
            for loads in (self.before, self.after)
        )
        return old, new

    def line(self, figure: str, name: str, digits: int) -> str:
        """A figure of both, and its ratio."""
        old, new = self.medians(figure)
        mark = " *" if figure == "rate" and min(self.medians("busy")) < SATURATED else ""
        return (
            f"  {name:<30} {old:>8.{digits}f} {new:>8.{digits}f}"
            f"   {summary(self.ratios(figure))}{mark}"
        )


@dataclass
class Comparison:
    """Both revisions with one database and number of clients."""

    database: str
    clients: int
    together: Rounds
    in_turns: Rounds

    def text(self) -> str:
        """The figures as they are printed."""
        lines = [self.title, self.together.line("cpu", "CPU us per request, together", 1)]
        for figure, name, digits in FIGURES:
            if self.in_turns.medians(figure) != (0, 0):
                lines.append(self.in_turns.line(figure, name, digits))
        errors = [
            sum(load.errors for load in loads)
            for loads in (
                self.together.before + self.in_turns.before,
                self.together.after + self.in_turns.after,
            )
        ]
        lines.append(f"  {'errors':<30} {errors[0]:>8} {errors[1]:>8}")
        return "\n".join(lines)

    @property
    def title(self) -> str:
        return f"{self.database}, {self.clients} client{'' if self.clients == 1 else 's'}"

    def excess(self, at_most: float) -> str:
        """A sentence if the CPU time per request is above a ratio, else nothing."""
        ratio = statistics.median(self.together.ratios("cpu"))
        least, _most = median_interval(self.in_turns.ratios("cpu"))
        if ratio > at_most:
            found = f"{ratio:.3f} times that of before"
        elif least > at_most:
            found = f"in turns at least {least:.3f} times that of before"
        else:
            return ""
        return f"{self.title}: CPU time per request is {found}, allowed are {at_most:g} times"

    def json(self) -> dict[str, object]:
        """All measurements."""
        return {
            "database": self.database,
            "clients": self.clients,
            # The rest of these loads is of both revisions, or of a shared CPU.
            "cpu_together": [
                [load.cpu for load in loads]
                for loads in (self.together.before, self.together.after)
            ],
            "before": [asdict(load) for load in self.in_turns.before],
            "after": [asdict(load) for load in self.in_turns.after],
        }


FIGURES = (
    ("cpu", "CPU us per request, in turns", 1),
    ("database_cpu", "database's CPU us per request", 1),
    ("rate", "requests/s", 0),
    ("busy", "busy share of server's CPU", 2),
    ("p99", "p99 ms", 2),
)
"""Figures of `Load` that are measured in turns, their names, and decimal places."""


def summary(values: list[float]) -> str:
    """Median, its 95% confidence interval, lowest and highest."""
    low, high = median_interval(values)
    return (
        f"{statistics.median(values):.3f}   {low:.3f}..{high:.3f}"
        f"   {min(values):.2f}..{max(values):.2f}"
    )


def median_interval(values: list[float]) -> tuple[float, float]:
    """The 95% confidence interval of the median, from order statistics.

    Of fewer than 6 values, it is lowest to highest.
    """
    ordered, half = sorted(values), len(values) / 2
    # The number of values below the true median has a binomial distribution with p = 1/2: its
    # standard deviation is sqrt(n) / 2, and 95% are within 1.96 of these.
    margin = 0.98 * math.sqrt(len(values))
    first, last = round(half - margin), round(1 + half + margin)
    return ordered[max(1, first) - 1], ordered[min(len(ordered), last) - 1]


def start(
    stack: ExitStack, revisions: tuple[Revision, Revision], names: list[str], load: set[int]
) -> list[Pair]:
    """Start both revisions on each database."""
    cpu, _load = place()
    pairs = []
    for name, (database_server, new_url) in start_databases(stack, names, load).items():
        started = []
        for revision in revisions:
            service = RevisionService(revision, new_url(), cpu)
            stack.callback(service.remove)
            try:
                service.start()
            except subprocess.CalledProcessError as error:
                sys.exit(f"{revision.name}: dbsync failed: {error.stderr.strip()}")
            started.append(Contestant(revision.name, DATABASES[name], service, database_server))
        pairs.append(Pair(*started))
    return pairs


def measure_together(pair: Pair, clients: int, seconds: int, load: set[int]) -> None:
    """Measure both revisions at the same time."""
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(measure, item, clients, seconds, load) for item in pair.together]
    for one in running:
        one.result()


def compare(pairs: list[Pair], clients: list[int], rounds: int, seconds: int) -> list[Comparison]:
    """Measure all pairs; each revision is the first of its pair in every other round."""
    _cpu, load = place()
    for number in range(rounds):
        for amount in clients:
            for pair in pairs:
                for item in pair.both() if number % 2 == 0 else reversed(pair.both()):
                    measure(item, amount, seconds, load)
                measure_together(pair, amount, seconds, load)
    return [
        Comparison(
            pair.before.database,
            amount,
            Rounds(*(item.loads[amount] for item in pair.together)),
            Rounds(*(item.loads[amount] for item in pair.both())),
        )
        for pair in pairs
        for amount in clients
    ]


def positive(text: str) -> int:
    """The type of an argument that counts something."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 on")
    return int(text)


def positive_ratio(text: str) -> float:
    """The type of --at-most."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0, such as 1.05")
    return value


def positives(text: str) -> list[int]:
    """The type of an argument with several of them."""
    return [positive(part) for part in text.split(",")]


def database_names(text: str) -> list[str]:
    """The type of --databases."""
    for name in text.split(","):
        if name not in DATABASES:
            allowed = ", ".join(DATABASES)
            raise argparse.ArgumentTypeError(f"{name}: no such database. There are: {allowed}")
    return text.split(",")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--before", required=True, help="git revision, or directory of a checkout")
    add("--after", default=".", help="the same, of what is compared with it (.)")
    add("--clients", type=positives, default=[1, 64], help="connections, with commas (1,64)")
    add(
        "--databases",
        type=database_names,
        default=list(DATABASES),
        help=f"with commas ({','.join(DATABASES)})",
    )
    add("--rounds", type=positive, default=20, help="of measurements (20)")
    add("--seconds", type=positive, default=1, help="seconds of each measurement (1)")
    add(
        "--at-most",
        type=positive_ratio,
        metavar="RATIO",
        help="highest allowed median ratio of CPU per request (any)",
    )
    add("--json", metavar="FILE", help="write all measurements to this file")
    return parser.parse_args()


def main() -> int:
    """Run the comparison."""
    chosen = arguments()
    _cpu, load = place()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        revisions = (
            install(chosen.before, directory / "before"),
            install(chosen.after, directory / "after"),
        )
        pairs = start(stack, revisions, chosen.databases, load)
        for item in (item for pair in pairs for item in pair.both()):
            prove(item, max(chosen.clients), min(2, chosen.seconds), load)
        if failures := [line for pair in pairs for line in pair.failures()]:
            print("\n".join(failures))
            return 1
        print("\n".join(line for pair in pairs for line in pair.proven()), flush=True)
        found = compare(pairs, chosen.clients, chosen.rounds, chosen.seconds)
    heading = "after / before: median, its 95% interval, range"
    print(f"\n{'':<32} {'before':>8} {'after':>8}   {heading}")
    print("\n\n".join(item.text() for item in found))
    print(
        f"\n* the busy share of a server's CPU is below {SATURATED}: something else limits the rate"
    )
    if chosen.json:
        Path(chosen.json).write_text(json.dumps([item.json() for item in found], indent=1) + "\n")
    failures = [line for pair in pairs for line in pair.failures()]
    if chosen.at_most is not None:
        failures += [line for item in found if (line := item.excess(chosen.at_most))]
    print("".join(f"\n{line}" for line in failures))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
