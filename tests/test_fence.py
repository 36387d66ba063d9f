"""The fence: what its file holds when, what is refused, and what a start makes of it."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeStore
from servers import run_cmd, wait_until

from uniqueid.allocation.allocator import Allocator
from uniqueid.errors import (
    MAX_ID,
    CounterRegressed,
    DatabaseUnavailable,
    FenceDamaged,
    FenceUnavailable,
)
from uniqueid.fence import file as fence
from uniqueid.fence.file import CounterBound
from uniqueid.fence.store import FencedStore
from uniqueid.model import Observer

WINDOW = 100


class Watcher(Observer):
    """Counts what the metrics would."""

    def __init__(self) -> None:
        self.writes = 0
        self.failures = 0
        self.skipped = 0

    def fence_written(self) -> None:
        self.writes += 1

    def fence_failed(self) -> None:
        self.failures += 1

    def fence_skipped(self, ids: int) -> None:
        self.skipped += ids


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uniqueid.allocation.availability.POLL_INTERVAL", 0.02)
    monkeypatch.setattr("uniqueid.allocation.regression.POLL_INTERVAL", 0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fence.json"


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


Start = Callable[..., Allocator]


@pytest.fixture
def start(path: Path, watcher: Watcher) -> Iterator[Start]:
    """Starts an allocator on a store behind the fence, as the service does."""
    started = []

    def start(store: FakeStore, **options: Any) -> Allocator:
        fenced = FencedStore(store, str(path), window=WINDOW, observer=watcher)
        allocator = Allocator(fenced, high_water_marks=fenced.high_water_marks, **options)
        started.append(allocator)
        allocator.start()
        wait_until(lambda: fenced.error is None or allocator.unavailable, "the fence being opened")
        return allocator

    yield start
    for allocator in started:
        allocator.close(30)


def crash(allocator: Allocator, path: Path) -> None:
    """Leave the file as a kill -9 at this moment would."""
    content = path.read_bytes()
    assert allocator.close(30)
    path.write_bytes(content)


def test_the_bound_is_on_disk_before_an_id_above_it_goes_out(start: Start, path: Path) -> None:
    """Whatever was allocated is below what the file says at that moment."""
    allocator = start(FakeStore())
    for count in (1, 50, 49, 1, 99, 5000, 1):
        first = allocator.allocate("file", count).first
        assert first + count <= fence.read(str(path))["file"].limit
    assert allocator.close(30)


def test_it_is_written_once_a_window(start: Start, watcher: Watcher, path: Path) -> None:
    """And not once a request; a range larger than the window takes one write as well."""
    allocator = start(FakeStore())
    before = watcher.writes
    for _time in range(3 * WINDOW):
        allocator.allocate("file", 1)
    assert watcher.writes - before == 3
    allocator.allocate("file", 50 * WINDOW)
    assert watcher.writes - before == 4
    assert fence.read(str(path))["file"] == CounterBound(53 * WINDOW + 1, 54 * WINDOW + 1)


def test_a_batch_of_many_modes_is_one_write(start: Start, watcher: Watcher, path: Path) -> None:
    """All of the modes that a transaction moves on are in the same write."""
    store = FakeStore()
    fenced = FencedStore(store, str(path), window=WINDOW, observer=watcher)
    fenced.ping()
    before = watcher.writes
    fenced.advance({f"mode {number}": 7 for number in range(50)}, {}, repair=True, deadline=1)
    assert watcher.writes - before == 1
    assert set(fence.read(str(path)).values()) == {CounterBound(8, 8 + WINDOW)}
    fenced.disconnect()


def test_a_restart_goes_on_where_the_last_one_stopped(start: Start, path: Path) -> None:
    """After a clean stop the file is exact, and there is no gap."""
    store = FakeStore()
    allocator = start(store)
    assert allocator.allocate("file", 5).first == 1
    assert allocator.close(30)
    assert fence.read(str(path)) == {"file": CounterBound(6, 6)}
    assert start(store).allocate("file", 1).first == 6


def test_a_crash_leaves_a_gap_of_a_window_and_no_alarm(
    start: Start, path: Path, watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    """The database is right, but the service cannot know it: information, and no regression."""
    caplog.set_level(logging.INFO, "uniqueid")
    store = FakeStore()
    allocator = start(store)
    allocator.allocate("file", 5)
    crash(allocator, path)
    assert start(store, repair=False).allocate("file", 1).first == 6 + WINDOW
    assert watcher.skipped == WINDOW
    told = [record for record in caplog.records if "not stopped cleanly" in record.getMessage()]
    assert [record.levelname for record in told] == ["INFO"]
    assert "regression" not in caplog.text


@pytest.mark.parametrize("clean", [True, False])
def test_a_database_restored_meanwhile_is_raised_to_the_fence(
    start: Start, path: Path, clean: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a request for it, with the alarm, and whichever way the service stopped."""
    store = FakeStore()
    allocator = start(store)
    for _time in range(30):
        allocator.allocate("file", 10)
    if clean:
        assert allocator.close(30)
    else:
        crash(allocator, path)
    restored = FakeStore(file=3)
    allocator = start(restored)
    wait_until(lambda: restored.values["file"] >= 301, "the counter being raised")
    assert "counter regression detected" in caplog.text
    assert "mode=file " in caplog.text
    assert allocator.allocate("file", 1).first >= 301


def test_a_mode_that_the_backup_does_not_know_goes_on_above(start: Start, path: Path) -> None:
    """It was new after the backup, and does not start at 1 again."""
    allocator = start(FakeStore())
    allocator.allocate("new", 40)
    assert allocator.close(30)
    assert start(FakeStore(other=9)).allocate("new", 1).first == 41


def test_stop_refuses_until_the_counters_are_advanced(start: Start, path: Path) -> None:
    """With on_regression = stop no ID is allocated, of any mode, before the operator's command."""
    allocator = start(FakeStore())
    allocator.allocate("file", 40)
    assert allocator.close(30)
    restored = FakeStore(file=3, other=9)
    allocator = start(restored, repair=False)
    wait_until(lambda: allocator.regressed, "the regression being noted")
    for mode in ("other", "file"):
        with pytest.raises(CounterRegressed, match="advance it to 41"):
            allocator.allocate(mode, 1)
    restored.values["file"] = 41
    wait_until(lambda: not allocator.regressed, "the repair being noticed")
    assert allocator.allocate("file", 1).first == 41


def test_counters_above_the_fence_and_new_ones_are_fine(start: Start, path: Path) -> None:
    """Another process, or an operator, has moved them on."""
    store = FakeStore()
    allocator = start(store)
    allocator.allocate("file", 5)
    assert allocator.close(30)
    store.values |= {"file": 1000, "new": 70}
    allocator = start(store)
    assert (allocator.allocate("file", 1).first, allocator.allocate("new", 1).first) == (1000, 70)


def test_the_running_process_keeps_the_exact_value(start: Start, path: Path) -> None:
    """A new connection compares with what was allocated, not with the bound of the file."""
    store = FakeStore()
    allocator = start(store, repair=False)
    assert allocator.allocate("file", 1).first == 1
    store.connections += 1
    assert [allocator.allocate("file", 1).first for _ in range(3)] == [2, 3, 4]
    assert not allocator.regressed


def test_a_reconnect_compares_the_counters_that_were_not_used_since_the_start(
    start: Start, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The database is replaced under the service: what an earlier process allocated counts."""
    fence.write(str(path), {"file": CounterBound(41, 41)})
    store = FakeStore(file=41, other=9)
    allocator = start(store)
    allocator.allocate("other", 1)
    store.values["file"] = 5
    store.connections += 1
    allocator.allocate("other", 1)
    wait_until(lambda: store.values["file"] == 41, "the counter being raised")
    assert "counter regression detected" in caplog.text


def test_the_bound_ends_with_the_ids(start: Start, path: Path) -> None:
    """It never says more than the counter's column can hold."""
    allocator = start(FakeStore())
    assert allocator.close(30)
    store = FakeStore(file=MAX_ID - 3)
    fence.write(str(path), {})
    allocator = start(store)
    allocator.allocate("file", 2)
    assert fence.read(str(path))["file"] == CounterBound(MAX_ID - 1, MAX_ID + 1)
    crash(allocator, path)
    allocator = start(store)
    assert store.values["file"] == MAX_ID + 1


# -- when it cannot be used ------------------------------------------------------------------------

BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-3],
    "a digit changed": lambda content: content.replace(b'"limit": 41', b'"limit": 49'),
    "a counter gone": lambda content: b"\n".join(
        line for line in content.splitlines() if b'"file"' not in line
    ),
    "not JSON": lambda content: b"\x00" * len(content),
    "another JSON": lambda content: b'{"a": 1}',
    "a list": lambda content: b"[1, 2]",
    "a newer version": lambda content: content.replace(b'"version": 2', b'"version": 3'),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_file_is_refused(start: Start, path: Path, how: str) -> None:
    """Every request is, with the command that repairs it, and the file is left alone."""
    store = FakeStore()
    allocator = start(store)
    allocator.allocate("file", 40)
    allocator.allocate("other", 40)
    assert allocator.close(30)
    broken = BROKEN[how](path.read_bytes())
    path.write_bytes(broken)
    allocator = start(store)
    with pytest.raises(FenceDamaged, match="fence --adopt"):
        allocator.allocate("other", 1)
    assert path.read_bytes() == broken
    fence.write(str(path), {"file": CounterBound(41, 41)})
    wait_until(lambda: allocator.unavailable is None, "the repair being noticed")
    assert allocator.allocate("file", 1).first == 41


def test_a_missing_file_is_refused_unless_nothing_was_handed_out(start: Start, path: Path) -> None:
    """An empty database and no file are the first start; counters without a file are a loss."""
    store = FakeStore()
    allocator = start(store)
    allocator.allocate("file", 40)
    assert allocator.close(30)
    path.unlink()
    allocator = start(store)
    with pytest.raises(FenceDamaged, match=r"there is no file .*fence --adopt"):
        allocator.allocate("file", 1)
    assert not path.exists()


def test_a_file_that_is_lost_under_the_service_is_written_again(
    start: Start, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Removed or truncated: the process knows better, says so and puts it right."""
    allocator = start(FakeStore())
    for spoil in (path.unlink, lambda: os.truncate(path, 10)):
        allocator.allocate("file", 1)
        good = path.read_bytes()
        caplog.clear()
        spoil()
        allocator.allocate("file", 1)
        assert path.read_bytes() == good
        assert "removed or changed" in caplog.text


def test_what_could_not_be_fenced_reaches_nobody(
    start: Start,
    path: Path,
    watcher: Watcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The disk is full: the request fails, the IDs are a gap, one line says so, and it goes on by
    itself when there is room."""
    store = FakeStore()
    allocator = start(store)
    allocator.allocate("file", 1)
    full = True
    fsync = os.fsync

    def no_room(file: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", no_room)
    assert allocator.allocate("file", WINDOW).first == 2
    for tries in range(1, 5):
        with pytest.raises(FenceUnavailable, match="No space left"):
            allocator.allocate("file", 1)
        wait_until(lambda: watcher.failures > tries, "another try to write it")  # noqa: B023
    assert store.values["file"] == WINDOW + 3, "the refused requests took more IDs"

    def complaints() -> int:
        return [record.levelname for record in caplog.records].count("ERROR")

    wait_until(complaints, "the line in the log")
    assert complaints() == 1
    assert list(path.parent.glob("*.new")) == []
    full = False
    wait_until(lambda: allocator.unavailable is None, "the disk with room being noticed")
    assert allocator.allocate("file", 1).first == WINDOW + 3
    assert "fence available" in caplog.text


def test_two_processes_cannot_share_a_file(start: Start, path: Path) -> None:
    """The second waits, refusing requests, until the first has ended."""
    store = FakeStore()
    one, two = start(store), start(store)
    assert one.allocate("file", 1).first == 1
    with pytest.raises(FenceUnavailable, match="another process uses"):
        two.allocate("file", 1)
    assert one.close(30)
    wait_until(lambda: two.unavailable is None, "the file being free")
    assert two.allocate("file", 1).first == 2


def test_a_lock_file_that_was_removed_protects_nobody(start: Start, path: Path) -> None:
    """Who finds it gone takes the new one before it writes, or writes nothing."""
    store = FakeStore()
    one = start(store)
    one.allocate("file", 1)
    Path(f"{path}.lock").unlink()
    two = start(store)
    assert two.unavailable is None
    with pytest.raises(FenceUnavailable):
        one.allocate("file", 2 * WINDOW)
    wait_until(lambda: "another process uses" in str(one.unavailable), "the other being noticed")


def test_a_database_that_is_away_at_the_start_is_waited_for(start: Start, path: Path) -> None:
    """The fence is opened when both are there."""

    class Away(FakeStore):
        away = True

        def counters(self) -> dict[str, int]:
            if self.away:
                raise DatabaseUnavailable("gone fishing")
            return super().counters()

    fence.write(str(path), {"file": CounterBound(41, 41)})
    store = Away(file=7)
    allocator = start(store)
    with pytest.raises(DatabaseUnavailable):
        allocator.allocate("file", 1)
    store.away = False
    wait_until(lambda: allocator.unavailable is None, "the database being back")
    assert allocator.allocate("file", 1).first == 41


# -- the command -----------------------------------------------------------------------------------


# With a fence.
cmd = partial(run_cmd, UNIQUEID_FENCE_PATH="fence.json")


@pytest.fixture
def counters() -> None:
    """Two counters, in the default file of the working directory."""
    assert cmd("dbsync").returncode == 0
    with closing(sqlite3.connect("db.sqlite3")) as database, database:
        database.executemany(
            "INSERT INTO uniqueindex VALUES (?, ?)", [("file", 101), ("upload_job", 7)]
        )


@pytest.mark.usefixtures("counters")
def test_adopt_takes_the_higher_of_database_and_file(path: Path) -> None:
    """And of a damaged file whatever is still whole; reset takes the database alone."""
    done = cmd("fence")
    assert done.returncode == 1
    assert "there is no such file" in done.stdout
    assert "fence --adopt" in done.stderr
    assert cmd("fence", "--adopt").returncode == 0
    assert fence.read(str(path)) == {
        "file": CounterBound(101, 101),
        "upload_job": CounterBound(7, 7),
    }

    fence.write(
        str(path),
        {
            "file": CounterBound(150, 250),
            "lost": CounterBound(5, 6),
            "upload_job": CounterBound(3, 4),
        },
    )
    path.write_bytes(path.read_bytes().replace(b'"limit": 6,', b'"limit": 9,'))
    assert cmd("fence").returncode == 1
    done = cmd("fence", "--adopt")
    assert done.returncode == 0
    assert "file: bound 250 kept, the database has 101" in done.stdout
    assert fence.read(str(path)) == {
        "file": CounterBound(150, 250),
        "upload_job": CounterBound(7, 7),
    }

    done = cmd("fence")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert rows == [
        ["file", "150", "250", "101", "regressed"],
        ["upload_job", "7", "7", "7", "ok"],
    ]
    done = cmd("fence", "--reset")
    assert "file: bound 250 given up, the database has 101" in done.stdout
    assert fence.read(str(path))["file"] == CounterBound(101, 101)


@pytest.mark.usefixtures("counters")
def test_the_command_is_refused_in_one_line(path: Path) -> None:
    """Without a setting, beside a running service, in no directory, on a newer release's file."""
    done = cmd("fence", UNIQUEID_FENCE_PATH="")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "[fence] path" in done.stderr
    done = cmd("fence", "--adopt", UNIQUEID_FENCE_PATH="nowhere/fence.json")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "nowhere/fence.json" in done.stderr
    assert cmd("fence", "--adopt").returncode == 0
    path.write_bytes(BROKEN["a newer version"](path.read_bytes()))
    done = cmd("fence", "--adopt")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "version 3" in done.stderr
    assert cmd("fence", "--reset").returncode == 0
    lock = fence.FenceLock(str(path))
    assert lock.take()
    try:
        done = cmd("fence", "--adopt")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "a running service uses" in done.stderr
    finally:
        lock.release()


def test_a_thousand_counters_are_written_and_read(path: Path) -> None:
    """Whatever their names are."""
    names = [f'päth ☃ " \\ \n{number}' for number in range(1000)]
    marks = {name: CounterBound(number + 1, number + 100) for number, name in enumerate(names)}
    fence.write(str(path), marks)
    assert fence.read(str(path)) == marks
    assert fence.read_valid_entries(str(path)) == marks


def test_the_file_and_its_directory_are_synced_before_a_write_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order: content, fsync of the file, rename, fsync of the directory."""
    calls: list[tuple[str, str]] = []

    def record(name: str, of: Callable[..., str]) -> None:
        call = getattr(os, name)

        def recording(*arguments: Any, **options: Any) -> Any:
            file = of(*arguments)
            result = call(*arguments, **options)
            calls.append((name, os.path.basename(file)))
            return result

        monkeypatch.setattr(os, name, recording)

    def opened(descriptor: int, *_rest: object) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    record("pwrite", opened)
    record("fsync", opened)
    record("rename", lambda old, _new: str(old))
    fence.write(str(path), {"file": CounterBound(1, 100)})
    assert calls == [
        ("pwrite", f"{path.name}.new"),
        ("fsync", f"{path.name}.new"),
        ("rename", f"{path.name}.new"),
        ("fsync", path.parent.name),
    ]


@pytest.fixture
def file(path: Path) -> Iterator[fence.FenceFile]:
    """A file with two counters."""
    made = fence.FenceFile(str(path))
    made.replace({"file": CounterBound(1, 101), "other": CounterBound(5, 105)})
    yield made
    made.lock.release()


def test_an_update_writes_only_what_changed_and_syncs_it_before_the_header(
    file: fence.FenceFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the log is long: then the file is replaced."""
    calls: list[tuple[str, int]] = []
    pwrite, fsync = os.pwrite, os.fsync

    def write(descriptor: int, content: Any, offset: int) -> int:
        calls.append(("pwrite", offset))
        return pwrite(descriptor, content, offset)

    def sync(descriptor: int) -> None:
        calls.append(("fsync", 0))
        fsync(descriptor)

    end = path.stat().st_size
    bounds = fence.read(str(path))
    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fsync", sync)
    bounds["new"] = CounterBound(1, 101)
    file.update({"new": bounds["new"]}, bounds)
    assert calls == [("pwrite", end), ("fsync", 0), ("pwrite", 0), ("fsync", 0)]
    assert fence.read(str(path)) == bounds
    for number in range(2500):
        bounds["new"] = CounterBound(number + 1, number + 1000)
        file.update({"new": bounds["new"]}, bounds)
    assert fence.read(str(path)) == bounds
    assert len(path.read_bytes().splitlines()) <= 1004


def test_an_append_that_a_crash_has_cut_short_is_ignored(file: fence.FenceFile, path: Path) -> None:
    """Wherever it was cut: before the header is written, nothing was allocated because of it."""
    before, bounds = path.read_bytes(), fence.read(str(path))
    after = {**bounds, "file": CounterBound(101, 201), "new": CounterBound(1, 101)}
    file.update({name: after[name] for name in ("file", "new")}, after)
    content = path.read_bytes()
    assert fence.read(str(path)) == after
    for end in range(len(before), len(content) + 1):
        # Its content or, where blocks reach the disk in another order, anything.
        for appended in (content[len(before) : end], b"\0" * (end - len(before))):
            path.write_bytes(before + appended)
            assert fence.read(str(path)) == bounds
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(FenceDamaged):
            fence.read(str(path))


def test_every_changed_byte_is_noticed(file: fence.FenceFile, path: Path) -> None:
    """The blanks that fill the header included."""
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + b"#" + content[place + 1 :])
        with pytest.raises(FenceDamaged):
            fence.read(str(path))


VERSION_1 = (
    b'{"format": "pacifica-uniqueid fence", "version": 1, "count": 2, "counters": {\n'
    b'"file": {"exact": 41, "bound": 141, "check": "cf346845"},\n'
    b'"other": {"exact": 7, "bound": 7, "check": "566097dc"}\n}}\n'
)
"""As releases before 1.0 have written it."""


def test_version_1_of_the_format_is_read_and_converted(start: Start, path: Path) -> None:
    """And refused when it is damaged; its counters go on above its bounds."""
    path.write_bytes(VERSION_1)
    assert fence.read(str(path)) == {"file": CounterBound(41, 141), "other": CounterBound(7, 7)}
    for damaged in (
        VERSION_1[:-4],
        VERSION_1.replace(b"141", b"142"),
        VERSION_1.replace(b'"count": 2', b'"count": 3'),
        VERSION_1.replace(b'"version": 1', b'"version": 0'),
    ):
        path.write_bytes(damaged)
        with pytest.raises(FenceDamaged):
            fence.read(str(path))
        assert fence.read_valid_entries(str(path))["other"] == CounterBound(7, 7)
    path.write_bytes(VERSION_1)
    allocator = start(FakeStore(file=41, other=7))
    assert [allocator.allocate(mode, 1).first for mode in ("file", "other")] == [141, 7]
    assert b'"version": 2' in path.read_bytes().splitlines()[0]
    assert allocator.close(30)
    assert fence.read(str(path)) == {"file": CounterBound(142, 142), "other": CounterBound(8, 8)}


def test_a_first_use_of_a_mode_does_not_rewrite_the_file(start: Start, path: Path) -> None:
    """With 10,000 modes it is one line more."""
    fence.write(str(path), {f"mode{number}": CounterBound(5, 5) for number in range(10_000)})
    store = FakeStore(**{f"mode{number}": 5 for number in range(10_000)})
    allocator = start(store)
    file = path.stat()
    for number in range(20):
        allocator.allocate(f"new{number}", 1)
    after = path.stat()
    assert after.st_ino == file.st_ino
    assert after.st_size - file.st_size < 20 * 200


@pytest.mark.parametrize(
    ("replaced", "failing", "number"),
    [
        (False, "fsync", 0),
        (False, "fsync", 1),
        (True, "fsync", 0),
        (True, "fsync", 1),
        (True, "rename", 0),
    ],
)
def test_ids_are_not_allocated_above_a_fence_that_is_not_on_disk(
    start: Start,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replaced: bool,
    failing: str,
    number: int,
) -> None:
    """A failed fsync(2) of the file, its header or its directory, or rename(2), is a 503."""
    allocator = start(FakeStore())
    assert allocator.allocate("file", 5).first == 1
    if replaced:
        path.unlink()
    call = getattr(os, failing)
    calls: list[None] = []

    def fail(*arguments: Any) -> None:
        calls.append(None)
        if len(calls) > number:
            raise OSError(errno.EIO, "Input/output error")
        call(*arguments)

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(FenceUnavailable, match="Input/output error"):
        allocator.allocate("file", 2 * WINDOW)
    monkeypatch.setattr(os, failing, call)
    wait_until(lambda: allocator.unavailable is None, "the fence being written")
    assert allocator.allocate("file", 1).first >= 6
