"""The SQLite database file, as the whole process has it open.

SQLite finds the write-ahead log by the file's name. When another file takes that name while the
first one is open, both would share one log: SQLite applies it to the wrong file (SQLite's
documentation, "How To Corrupt An SQLite Database File", 1.4 and 2.4), and IDs are allocated again.
So:

1. At most one file is open by a path. Before another one is opened, the log of the first is
   checkpointed into it and truncated, and all of its connections are closed.
2. A file is not opened while another process uses the log for the file that was there before.
3. A file is opened next to an empty log, or next to its own. Otherwise it is refused until an
   operator has removed or checkpointed the log.
4. Nothing here deletes, renames or overwrites a database file or its log.

Which file a log in use belongs to is seen from SQLite's locks. Which file a log belongs to that a
crash has left is not stored in the log. Before it commits anything, the service stores a checksum
of the file's inode number and birth time in the file's header, as SQLite's `user_version`: a copy
is another inode, so the log next to it is not its own. The inode number alone does not show that,
since ext4 reuses it at once. A file whose `user_version` is 0 has not been opened by this
release: a log next to it is another file's, or that of a previous release which crashed, and is
refused too. A file that is overwritten in place remains the same inode, which is not detected.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sqlite3
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress

from uniqueid.errors import UnsafeSession

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

_USE_TIMEOUT = 1
"""Seconds to wait for the other connections of the process before a replaced file is left."""
_USER_VERSION_OFFSET = 60
"""SQLite's documentation, "Database File Format", 1.3."""

_FILE_IN_USE = 0x40000002, 510
"""Start and length of the bytes on which each connection to a file in WAL mode has a shared lock
(SQLite's os.h, SHARED_FIRST and SHARED_SIZE)."""
_SHM_IN_USE = 128, 1
"""The same for the shared memory of the log (SQLite's os_unix.c, UNIX_SHM_DMS)."""
# To close an ordinary descriptor would release the locks of this process on the file (fcntl(2)).
_O_PATH: int = getattr(os, "O_PATH", os.O_RDONLY)

Identity = tuple[int, int]
"""Device and inode number."""


class SQLiteFile:
    """One path and the file that this process has open there; shared by all threads and stores.

    The lock of `_changed` guards all attributes. Any thread calls any method.

    :param path: of the database file, which need not exist.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._changed = threading.Condition(threading.RLock())
        self._in_use: dict[sqlite3.Connection, bool] = {}
        """Each open connection, and whether a thread uses it."""
        self._identity: Identity | None = None
        """The file that was opened last."""
        self._descriptor: int | None = None
        """Keeps its inode number from being reused."""
        self._pid = os.getpid()
        self._forked: list[sqlite3.Connection] = []

    def acquire(
        self, connection: sqlite3.Connection | None, connect: Callable[[], sqlite3.Connection]
    ) -> tuple[sqlite3.Connection, bool]:
        """Begin to use a connection to the file that the path leads to.

        :param connection: the caller's, if it has one; closed here when its file was replaced.
        :param connect: makes a new one.
        :returns: the connection, and whether it is new.
        :raises UnsafeSession: when the file cannot be used as it is.
        :raises sqlite3.OperationalError: when a replaced file is still in use after a second.
        """
        with self._changed:
            self._forget_parent()
            if self._in_use and self._find() != self._identity:
                self._leave()
            is_new = connection not in self._in_use
            if is_new or connection is None:
                connection = self._open(connect)
            self._in_use[connection] = True
            return connection, is_new

    def release(self, connection: sqlite3.Connection) -> None:
        """End a use that `acquire` began."""
        with self._changed:
            if connection in self._in_use:
                self._in_use[connection] = False
                self._changed.notify_all()

    def close(self, connection: sqlite3.Connection) -> None:
        """Close a connection."""
        with self._changed:
            self._in_use.pop(connection, None)
            self._changed.notify_all()
            if connection not in self._forked:
                connection.close()

    def _forget_parent(self) -> None:
        """Leave the connections of a process that has forked this one to it."""
        if self._pid != os.getpid():
            self._forked += self._in_use
            self._in_use = {}
            self._pid = os.getpid()

    def _find(self) -> Identity | None:
        try:
            return _identity(os.stat(self._path))
        except OSError:
            return None

    def _leave(self) -> None:
        """Bring the log into the file that was replaced, and close that file."""
        if not self._changed.wait_for(lambda: not any(self._in_use.values()), _USE_TIMEOUT):
            raise sqlite3.OperationalError("database is locked: the file was replaced while in use")
        log.warning("SQLite file replaced or removed file=%s", self._path)
        with suppress(sqlite3.Error):
            # Where that fails, the log keeps its content, and the next file is refused.
            next(iter(self._in_use)).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for connection in self._in_use:
            connection.close()
        self._in_use.clear()

    def _open(self, connect: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
        """Make a connection to the file that the path leads to, and pin that file."""
        with ExitStack() as undo:
            descriptor = self._descriptor
            if not self._in_use:
                descriptor = _pin(self._path)
                if descriptor is not None:
                    undo.callback(os.close, descriptor)
                    self._check(descriptor)
            connection = connect()
            undo.callback(connection.close)
            if descriptor is None:
                # The connection has created the file.
                descriptor = os.open(self._path, _O_PATH)
                undo.callback(os.close, descriptor)
            identity = _identity(os.fstat(descriptor))
            if identity != self._find():
                raise sqlite3.OperationalError("database is locked: the file was just replaced")
            bind(connection, _version_of(descriptor))
            undo.pop_all()
        if self._descriptor not in (None, descriptor):
            os.close(self._descriptor)
        self._descriptor, self._identity = descriptor, identity
        return connection

    def _check(self, descriptor: int) -> None:
        """See that a file may be opened of which this process has no connection.

        :raises UnsafeSession: when it may not.
        """
        status = os.fstat(descriptor)
        if _identity(status) != self._identity:
            check_links(self._path, status)
        path = os.path.realpath(self._path)
        if _is_locked(f"{path}-shm", *_SHM_IN_USE):
            if _is_locked(path, *_FILE_IN_USE):
                return
            raise UnsafeSession(
                f"{path} was replaced, and another process still uses the previous file with its"
                f" log {path}-wal: end that process; a service leaves the file with its next"
                " request"
            )
        logs = [name for end in ("-wal", "-journal") if _size(name := path + end)]
        if not logs:
            return
        stored = _stored_version(path)
        if stored == _version_of(descriptor):
            return
        if not stored and not self._identity and not logs[0].endswith("-wal"):
            # The rollback journal of the legacy service, which knows no other.
            return
        what = (
            f"{path} was replaced, and {logs[0]} is the log of another file"
            if stored
            else f"this release has not opened {path} before, and {logs[0]} is the log of another"
            " file or of a previous release that crashed"
        )
        raise UnsafeSession(
            f"{what}: if {path} is the file"
            f" to serve, remove {logs[0]} and {path}-shm; if the log belongs to it, run"
            f" sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )


def _pin(path: str) -> int | None:
    """A descriptor of a file, None without a file."""
    try:
        return os.open(path, _O_PATH)
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _is_locked(path: str, start: int, length: int) -> bool:
    """Whether another process has a lock on bytes of a file (fcntl(2), F_GETLK)."""
    if sys.platform != "linux":
        return False
    descriptor = _kept_open(path)
    if descriptor is None:
        return False
    question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
    return bool(struct.unpack("hhqqi", answer)[0] != fcntl.F_UNLCK)


_descriptors: dict[Identity, int] = {}


def _kept_open(path: str) -> int | None:
    """An ordinary descriptor of a file, None where it cannot be opened.

    It stays open: to close one would release all locks of this process on the file (fcntl(2)),
    those of SQLite included. That a connection was closed is no reason to believe that it has none:
    SQLite keeps it, with its locks, while a statement of it is referenced. Without its locks,
    another process deletes the log under the service, and what is committed then is lost.
    """
    for identity, descriptor in list(_descriptors.items()):
        if not os.fstat(descriptor).st_nlink:
            # Deleted: no other process can open it.
            del _descriptors[identity]
            os.close(descriptor)
    try:
        known = _descriptors.get(_identity(os.stat(path)))
        if known is not None:
            return known
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    return _descriptors.setdefault(_identity(os.fstat(descriptor)), descriptor)


def bind(connection: sqlite3.Connection, version: int) -> None:
    """Store which inode a file is in its header, not only in the log."""
    if connection.execute("PRAGMA user_version").fetchone() != (version,):
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_MASK = struct.Struct("=I")
_STATX_BIRTH_TIME = struct.Struct("=80xqI")
"""Seconds and nanoseconds (statx(2), linux/stat.h; the same on all architectures)."""


def _birth_time(descriptor: int) -> tuple[int, int]:
    """When an inode was made; zeros where the system does not tell.

    Python has no call for it. An ordinary descriptor, as ioctl(2) takes it, cannot be used here:
    closing it releases the locks of this process on the file.
    """
    result = ctypes.create_string_buffer(256)
    try:
        error = ctypes.CDLL(None).statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, result)
    except (AttributeError, OSError, TypeError):
        return 0, 0
    if error or not _STATX_MASK.unpack_from(result)[0] & _STATX_BTIME:
        return 0, 0
    seconds, nanoseconds = _STATX_BIRTH_TIME.unpack_from(result)
    return seconds, nanoseconds


def _version_of(descriptor: int) -> int:
    """Which inode a file is, as a `user_version`: 31 bits, and not the 0 of a new file."""
    identity = (os.fstat(descriptor).st_ino, *_birth_time(descriptor))
    return zlib.crc32(repr(identity).encode()) & 0x7FFFFFFF or 1


def _stored_version(path: str) -> int:
    """The `user_version` in a file's header, without its log."""
    descriptor = _kept_open(path)
    if descriptor is None:
        return 0
    return int.from_bytes(os.pread(descriptor, 4, _USER_VERSION_OFFSET), "big")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def check_links(path: str, status: os.stat_result) -> None:
    """See that the log is stored next to the file, whatever name the file is opened by.

    :raises UnsafeSession: for a file that is a mount of its own or has several hard links.
    """
    remedy = (
        "SQLite stores its log next to the file under the same name, so a process that opens the"
        " file by another name loses allocated IDs: mount the directory of the file, not the file"
    )
    if status.st_nlink > 1:
        raise UnsafeSession(f"{path} has {status.st_nlink} hard links. {remedy}")
    if os.path.realpath(path) in mount_points():
        raise UnsafeSession(f"{path} is a mount of its own. {remedy}")


def mount_points() -> set[str]:
    """Where file systems, directories and files are mounted; empty without Linux' /proc."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            fields = [line.split(" ")[4] for line in file]
    except OSError:
        return set()
    # Blanks, tabs, newlines and backslashes are octal escapes (proc(5)).
    return {re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), field) for field in fields}


_files: dict[str, SQLiteFile] = {}
_files_lock = threading.Lock()


def file_at(path: str) -> SQLiteFile:
    """The one object for a path in this process: all stores have to see the same file."""
    path = os.path.abspath(path)
    with _files_lock:
        return _files.setdefault(path, SQLiteFile(path))
