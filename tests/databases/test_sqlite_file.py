"""A SQLite file that is replaced, removed, mounted or linked: no ID twice, and no log deleted.

On ext4, which reuses inode numbers at once, and on tmpfs.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import servers
from pony.orm import db_session
from servers import Service, run_cmd, wait_until

from uniqueid.database import schema
from uniqueid.database.store import Store
from uniqueid.database_url import parse

TAIL = "is the log of another file"


@pytest.fixture(params=["ext4", "tmpfs"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory for database files, on a file system of its own."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    if request.param == "ext4":
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(mounted)]
    else:
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(mounted)]
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    subprocess.run([*as_root, *mount], check=True)
    try:
        subprocess.run([*as_root, "chown", str(os.getuid()), str(mounted)], check=True)
        yield mounted
    finally:
        subprocess.run([*as_root, "umount", "--lazy", str(mounted)], check=True)


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "db.sqlite3"


@pytest.fixture
def service(path: Path) -> Iterator[Service]:
    with servers.running(Service(f"sqlite:///{path}", request_timeout="2")) as service:
        yield service


def backup(path: Path, name: str = "copy.sqlite3") -> Path:
    """An up-to-date copy, made by SQLite's backup API."""
    copy = path.with_name(name)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def probe(service: Service) -> None:
    """Have the other threads and connections of the service use the file as well."""
    for _ in range(2):
        service.get("/readyz")
        service.metric("uniqueid_ready")


def take(service: Service, count: int) -> tuple[int, int]:
    status, document = service.get(f"/getid?range={count}&mode=file")
    assert status == 200, document
    return document["startIndex"], document["endIndex"]


GONE = "not found"


def unavailable(service: Service, expected: str) -> str:
    """What /readyz reports while requests are rejected with 503."""
    status, document = service.get("/getid?range=1&mode=file")
    assert (status, document["type"].rpartition("/")[2]) == (503, "database-unavailable")

    def reason() -> str:
        return str(service.get("/readyz")[1].get("checks", {}).get("database", ""))

    wait_until(lambda: expected in reason(), f"{expected!r} at /readyz")
    return reason()


def served(service: Service) -> bool:
    status, _document = service.get("/getid?range=1&mode=other")
    return status == 200


def check_integrity(*paths: Path) -> None:
    for path in paths:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("probed", [True, False], ids=["probed", ""])
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_file_that_is_replaced_by_an_up_to_date_copy(
    service: Service, path: Path, end: str, probed: bool
) -> None:
    """What is committed after it is in the new file, whatever ends the process."""
    assert take(service, 5) == (1, 5)
    probe(service)
    copy = backup(path)
    os.rename(path, path.with_name("db.old"))
    os.rename(copy, path)
    assert take(service, 1) == (6, 6)
    if probed:
        probe(service)
    assert take(service, 5) == (7, 11)
    if end == "kill":
        service.kill()
    else:
        service.stop()
    service.start()
    assert take(service, 1) == (12, 12)
    service.stop()
    check_integrity(path, path.with_name("db.old"))


@pytest.mark.parametrize("times", [3])
def test_a_file_that_is_replaced_again_and_again(service: Service, path: Path, times: int) -> None:
    """Under their old names and new ones, by copies and by the first file itself."""
    last = 0
    for number in range(times):
        for _ in range(3):
            first, last_ = take(service, 4)
            assert first > last
            last = last_
            probe(service)
        copy = backup(path, f"copy {number}")
        os.rename(path, path.with_name(f"old {number}"))
        os.rename(copy, path)
    os.rename(path.with_name("old 0"), path)
    first, last_ = take(service, 4)
    assert first == last + 1
    service.kill()
    service.start()
    assert take(service, 1)[0] == last_ + 1


def test_a_file_that_is_removed_and_restored_under_the_same_number(
    service: Service, path: Path
) -> None:
    """The log of the removed file is not applied to the backup."""
    assert take(service, 5) == (1, 5)
    copy = backup(path)
    assert take(service, 5) == (6, 10)
    probe(service)
    path.unlink()
    unavailable(service, GONE)
    shutil.copy(copy, path)
    wait_until(lambda: served(service), "service again")
    assert take(service, 5) == (11, 15)
    service.kill()
    service.start()
    assert take(service, 1) == (16, 16)
    service.stop()
    check_integrity(path)


def keep_log(path: Path) -> tuple[bytes, Path]:
    """The content of a file's log, and a copy of the file without it."""
    content = log_of(path).read_bytes()
    assert content
    bare = path.with_name("bare.sqlite3")
    shutil.copy(path, bare)
    return content, bare


def foreign_log(service: Service, path: Path) -> Path:
    """Replace the file by an older copy with a log next to it that is not the copy's."""
    assert take(service, 5) == (1, 5)
    copy = backup(path)
    assert take(service, 5) == (6, 10)
    content, _bare = keep_log(path)
    os.rename(path, path.with_name("db.old"))
    # The service empties its log, closes it, and there is none.
    unavailable(service, GONE)
    log_of(path).unlink(missing_ok=True)
    log_of(path).write_bytes(content)
    os.rename(copy, path)
    return log_of(path)


@pytest.mark.parametrize("repair", ["remove", "restore"])
def test_a_foreign_log_is_refused_until_it_is_removed(
    service: Service, path: Path, repair: str
) -> None:
    """/readyz names it, nothing touches it, and service resumes without a restart."""
    log = foreign_log(service, path)
    before = log.read_bytes(), path.read_bytes()
    assert str(log) in unavailable(service, TAIL)
    probe(service)
    assert (log.read_bytes(), path.read_bytes()) == before
    if repair == "remove":
        log.unlink()
    else:
        # The first file, properly, without the log.
        os.rename(path, path.with_name("not this one"))
        log.unlink()
        os.rename(path.with_name("db.old"), path)
    wait_until(lambda: served(service), "service again")
    assert take(service, 5) == (11, 15)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_restart_does_not_open_a_foreign_log_either(
    service: Service, path: Path, end: str
) -> None:
    """Also `dbsync` and `dbchk` refuse it and change nothing."""
    log = foreign_log(service, path)
    unavailable(service, TAIL)
    if end == "kill":
        service.kill()
    else:
        service.stop()
    before = log.read_bytes(), path.read_bytes()
    for command in ("dbsync", "dbchk", "show"):
        refused = run_cmd(command, UNIQUEID_DATABASE_URL=service.database_url)
        assert refused.returncode != 0
        assert TAIL in refused.stderr
        assert "Traceback" not in refused.stderr
    service.launch()
    wait_until(lambda: service.process.poll() is not None, "the end of the service")
    assert TAIL in service.log.read_text()
    assert (log.read_bytes(), path.read_bytes()) == before
    log.unlink()
    service.start()
    # A new process has no high-water marks: the operator has restored an older copy.
    assert take(service, 1) == (6, 6)


def copy_onto_number(copy: Path, path: Path, inode: int) -> None:
    """Copy a file to a path so that the new file has an inode number that was in use before."""
    for number in range(1000):
        candidate = path.with_name(f"candidate {number}")
        shutil.copy(copy, candidate)
        if candidate.stat().st_ino == inode:
            os.rename(candidate, path)
            return
    pytest.fail(f"no new file has the inode number {inode}")


def restore_from_dump(copy: Path, path: Path) -> None:
    """Put a file in the place of another that was made of a dump, which has no `user_version`."""
    restored = path.with_name("restored.sqlite3")
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(restored)) as target:
        target.executescript("\n".join(source.iterdump()))
        assert target.execute("PRAGMA user_version").fetchall() == [(0,)]
    os.rename(restored, path)


@pytest.mark.parametrize("means", ["copy", "dump"])
def test_a_restore_after_a_crash_does_not_get_the_log_of_the_previous_file(
    service: Service, path: Path, means: str, request: pytest.FixtureRequest
) -> None:
    """Also when it has the inode number of the previous file, or no `user_version`."""
    assert take(service, 5) == (1, 5)
    copy = backup(path)
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute('UPDATE uniqueindex SET "index" = 1000')
    assert take(service, 5) == (6, 10)
    service.kill()
    inode = path.stat().st_ino
    path.unlink()
    if means == "dump":
        restore_from_dump(copy, path)
    elif request.node.callspec.params["directory"] == "ext4":
        copy_onto_number(copy, path, inode)
    else:
        # tmpfs does not reuse inode numbers.
        shutil.copy(copy, path)
    log = log_of(path)
    before = log.read_bytes(), path.read_bytes()
    result = run_cmd("dbsync", UNIQUEID_DATABASE_URL=service.database_url)
    assert result.returncode != 0
    assert f"{log} is the log of another" in result.stderr
    assert (log.read_bytes(), path.read_bytes()) == before
    log.unlink()
    service.start()
    assert take(service, 1) == (1000, 1000)
    service.stop()
    check_integrity(path)


# Leaves a log as a process does that is killed: nothing is closed.
CRASH = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA user_version = 0")
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
connection.execute('UPDATE uniqueindex SET "index" = 501')
connection.commit()
os._exit(0)
"""


def test_the_log_of_a_previous_release_that_crashed_is_applied_by_the_operator(
    service: Service, path: Path
) -> None:
    """What the error says to do loses no commit of that release, which stored no `user_version`."""
    assert take(service, 5) == (1, 5)
    service.stop()
    subprocess.run([sys.executable, "-c", CRASH, str(path)], check=True)
    assert log_of(path).stat().st_size
    result = run_cmd("dbsync", UNIQUEID_DATABASE_URL=service.database_url)
    assert result.returncode != 0
    assert "of a previous release that crashed" in result.stderr
    pragma = "PRAGMA wal_checkpoint(TRUNCATE)"
    assert f"run sqlite3 {path} '{pragma}'" in result.stderr
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(pragma).fetchall()
    service.start()
    assert take(service, 1) == (501, 501)


def test_two_services_on_one_file_that_is_replaced(path: Path) -> None:
    """Neither writes into the other's log; one of them is killed in between."""
    url = f"sqlite:///{path}"
    with servers.running(Service(url)) as one, servers.running(Service(url)) as other:
        seen: list[tuple[int, int]] = []
        for service in (one, other) * 2:
            seen.append(take(service, 5))
            probe(service)
        copy = backup(path)
        os.rename(path, path.with_name("db.old"))
        os.rename(copy, path)

        def both_served() -> bool:
            # The first that opens the new file waits until the other has left the old one.
            return [served(one), served(other)] == [True, True]

        wait_until(both_served, "both services on the new file")
        for service in (one, other) * 2:
            seen.append(take(service, 5))
            probe(service)
        one.kill()
        seen.append(take(other, 5))
        other.kill()
        one.start()
        seen.append(take(one, 5))
    ids = [number for first, last in seen for number in range(first, last + 1)]
    assert len(ids) == len(set(ids))
    check_integrity(path, path.with_name("db.old"))


def test_a_crash_leaves_a_log_that_is_applied(service: Service, path: Path) -> None:
    """It is the file's own: the next start needs no operator."""
    assert take(service, 5) == (1, 5)
    service.kill()
    assert log_of(path).stat().st_size
    service.start()
    assert take(service, 5) == (6, 10)


def test_the_service_unlinks_and_renames_nothing(service: Service, path: Path) -> None:
    """The log of a file that was moved away stays, and is empty."""
    assert take(service, 5) == (1, 5)
    old = path.with_name("db.old")
    log = log_of(path).stat().st_ino
    os.rename(path, old)
    unavailable(service, GONE)
    assert log_of(path).stat().st_ino == log
    assert log_of(path).stat().st_size == 0
    with closing(sqlite3.connect(f"file:{old}?immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT id FROM uniqueindex").fetchall() == [("file",)]


# -- a file that is a mount point or has links -------------------------------------------------


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """Mount a single file or a directory, as a container's volume."""
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    subprocess.run([*as_root, "mount", "--bind", str(source), str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run([*as_root, "umount", "--lazy", str(target)], check=True)


def refused(path: Path, expected: str) -> None:
    for command in ("dbsync", "dbchk"):
        result = run_cmd(command, UNIQUEID_DATABASE_URL=f"sqlite:///{path}")
        assert result.returncode != 0
        assert f"{path} {expected}" in result.stderr
        assert "mount the directory of the file, not the file" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_hard_link_is_refused(tmp_path: Path) -> None:
    """By commands and at a start, by either name; and served again with one name."""
    path, other = tmp_path / "db.sqlite3", tmp_path / "other.sqlite3"
    service = Service(f"sqlite:///{path}", request_timeout="2")
    try:
        service.cmd("dbsync")
        os.link(path, other)
        refused(path, "has 2 hard links")
        refused(other, "has 2 hard links")
        service.launch()
        wait_until(lambda: service.process.poll() is not None, "the end of the service")
        assert "has 2 hard links" in service.log.read_text()
        other.unlink()
        service.start()
        assert take(service, 1) == (1, 1)
    finally:
        service.remove()


@pytest.mark.parametrize("name", ["db.sqlite3", "a name with blanks"])
def test_a_file_that_is_mounted_by_itself_is_refused(tmp_path: Path, name: str) -> None:
    """As `docker -v ./db.sqlite3:/data/db.sqlite3` and a subPath of Kubernetes do it."""
    source, target = tmp_path / "source", tmp_path / name
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM")
    target.touch()
    # A symbolic link leads to the same file, and its log is next to that.
    link = tmp_path / "link"
    link.symlink_to(target)
    with bound(source, target):
        refused(target, "is a mount of its own")
        refused(link, "is a mount of its own")


def test_a_directory_that_is_mounted_and_a_symbolic_link_are_served(tmp_path: Path) -> None:
    """The log is next to the file under each of its names."""
    real, link = tmp_path / "real.sqlite3", tmp_path / "link.sqlite3"
    assert run_cmd("dbsync", UNIQUEID_DATABASE_URL=f"sqlite:///{real}").returncode == 0
    link.symlink_to(real)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    with bound(tmp_path, mounted):
        for path in (mounted / "real.sqlite3", mounted / "link.sqlite3"):
            result = run_cmd("dbchk", UNIQUEID_DATABASE_URL=f"sqlite:///{path}")
            assert result.returncode == 0, result.stderr


def test_a_connection_that_outlives_its_close_keeps_its_locks(tmp_path: Path) -> None:
    """SQLite keeps it while a statement is referenced; another process must not delete the log."""
    path = tmp_path / "db.sqlite3"
    store = Store(parse(f"sqlite:///{path}", "url", "test"), create=True)
    schema.sync(store)

    def allocate() -> int:
        outcome = store.advance({"file": 1}, {}, deadline=time.monotonic() + 30)["file"]
        assert not isinstance(outcome, Exception)
        return outcome.next_id

    allocate()
    with db_session:
        connection = store.database.get_connection()
        cursor = connection.execute("SELECT * FROM uniqueindex, sqlite_master")
        cursor.fetchone()
    store.disconnect()
    allocate()
    look = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute('SELECT "index" FROM uniqueindex').fetchone()[0])
connection.close()
"""
    for _ in range(2):
        expected = allocate()
        result = subprocess.run(
            [sys.executable, "-c", look, str(path)], capture_output=True, text=True, check=True
        )
        assert int(result.stdout) == expected
    assert cursor is not None
    store.disconnect()
