"""The fence file: for each counter, up to where its IDs may have been allocated.

The file is a log. Its first line is a header of fixed size, which holds the length of the valid
content; every other line is an entry, and a later entry of a counter replaces an earlier one:

    {"format": "pacifica-uniqueid fence", "version": 2, "length": 235, "check": "5f0c9a1b"}
    {"counter": "file", "committed": 6, "limit": 100006, "check": "1d2e3f40"}

1. An append writes entries behind the valid content and syncs them; then it writes the header and
   syncs that. What is behind the valid content was never relied on, and is ignored.
2. Everything within it has to be right: a file that is shorter, or has a line that does not match
   its checksum, is damaged and refused.
3. Now and then the file is replaced as a whole: a temporary file beside it is written and synced,
   takes its name by rename(2), and the directory is synced.

A header is smaller than a disk's sector, which is written as a whole. fsync(2) has to mean what it
says on the file system.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from uniqueid.errors import MAX_ID, FenceDamaged

if sys.platform != "win32":
    import fcntl

_FORMAT: Final = "pacifica-uniqueid fence"
_VERSION: Final = 2
_HEADER_SIZE: Final = 128
_MIN_LOG: Final = 1000
"""Entries that are appended before the file is replaced, whatever the number of counters."""


@dataclass(frozen=True, slots=True)
class CounterBound:
    """What the file holds of one counter."""

    committed: int
    """The next ID when this was written: the database had it then."""
    limit: int
    """No ID at or above this was allocated. Above `committed` unless the service stopped
    cleanly."""


Bounds = Mapping[str, CounterBound]
"""Counter to its bound."""


def read(path: str) -> dict[str, CounterBound]:
    """The bounds in a file, of this version of the format or of version 1.

    :raises FileNotFoundError: when there is none.
    :raises FenceDamaged: when it is not exactly what was written.
    :raises OSError: when it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read()
    if not content:
        raise FenceDamaged(f"{path} is empty")
    try:
        header, whole_line = _header(content)
        if header["format"] != _FORMAT:
            raise ValueError("it is no fence")
        version = header["version"]
        if version not in (1, _VERSION):
            newer = FenceDamaged(
                f"{path} has version {version!r} of the format, and this release knows {_VERSION}"
            )
            newer.newer = True
            raise newer
        return _entries(header, content) if whole_line else _version_1(header)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FenceDamaged(f"{path} is damaged: {error}") from error


def _header(content: bytes) -> tuple[dict[str, Any], bool]:
    """The header, and whether it is a line of its own; version 1 was one JSON document."""
    first = content.partition(b"\n")[0]
    try:
        return json.loads(first), True
    except ValueError:
        return json.loads(content), False


def _version_1(document: Mapping[str, Any]) -> dict[str, CounterBound]:
    bounds = {counter: _bound_1(counter, entry) for counter, entry in document["counters"].items()}
    if len(bounds) != document["count"]:
        raise ValueError(f"it has {len(bounds)} counters and says {document['count']!r}")
    return bounds


def _bound_1(counter: str, entry: Mapping[str, Any]) -> CounterBound:
    return _bound(counter, entry["exact"], entry["bound"], entry["check"])


def _entries(header: Mapping[str, Any], content: bytes) -> dict[str, CounterBound]:
    length = header["length"]
    if header["check"] != _checksum(_VERSION, length):
        raise ValueError("the checksum of the header is wrong")
    if len(content) < length:
        raise ValueError(f"it has {len(content)} bytes, and {length} were written")
    return dict(_entry(line) for line in content[_HEADER_SIZE:length].splitlines())


def _entry(line: bytes) -> tuple[str, CounterBound]:
    entry = json.loads(line)
    counter = entry["counter"]
    return counter, _bound(counter, entry["committed"], entry["limit"], entry["check"])


def _bound(counter: str, committed: int, limit: int, check: str) -> CounterBound:
    if check != _checksum(counter, committed, limit):
        raise ValueError(f"the checksum of counter {counter!r} is wrong")
    if not 1 <= committed <= limit <= MAX_ID + 1:
        raise ValueError(f"the numbers of counter {counter!r} cannot be")
    return CounterBound(committed, limit)


def read_valid_entries(path: str) -> dict[str, CounterBound]:
    """What can be relied on of a damaged file: the highest bound of each counter with a checksum.

    :raises OSError: when it cannot be read at all; a file that is missing has no entries.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    bounds: dict[str, CounterBound] = {}
    for line in lines:
        # One counter a line, in both versions; a header, or half a line, does not pass.
        for parse in (_entry, _line_1):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                counter, bound = parse(line)
                if counter not in bounds or bound.limit > bounds[counter].limit:
                    bounds[counter] = bound
    return bounds


def _line_1(line: bytes) -> tuple[str, CounterBound]:
    ((counter, entry),) = json.loads(b"{" + line.rstrip(b",") + b"}").items()
    return counter, _bound_1(counter, entry)


def _checksum(*values: object) -> str:
    return f"{zlib.crc32(json.dumps(values).encode()):08x}"


def _rendered(bounds: Bounds) -> bytes:
    """Entries, one a line."""
    lines = []
    for counter, bound in sorted(bounds.items()):
        entry = {
            "counter": counter,
            "committed": bound.committed,
            "limit": bound.limit,
            "check": _checksum(counter, bound.committed, bound.limit),
        }
        lines.append(json.dumps(entry) + "\n")
    return "".join(lines).encode()


def _rendered_header(length: int) -> bytes:
    check = _checksum(_VERSION, length)
    header = {"format": _FORMAT, "version": _VERSION, "length": length, "check": check}
    return json.dumps(header).encode().ljust(_HEADER_SIZE - 1) + b"\n"


def write(path: str, bounds: Bounds) -> None:
    """Replace the file as a whole; when this returns, it is on disk.

    :raises OSError: when it cannot be done. The old file, or the new one, is there then.
    """
    temporary = f"{path}.new"
    entries = _rendered(bounds)
    with contextlib.suppress(FileNotFoundError):
        # Another user's, from a command: it cannot be opened for writing, but it can be removed.
        os.unlink(temporary)
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _write_at(file, _rendered_header(_HEADER_SIZE + len(entries)) + entries, 0)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        # Some file systems have no such thing for directories (fsync(2)).
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(directory)


def _write_at(file: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


class FenceFile:
    """The file as its one writer sees it. The thread that holds the store lock calls it.

    :param path: absolute.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = FenceLock(path)
        self._length = 0
        self._appended = 0
        self._signature: tuple[int, ...] | None = None

    def replace(self, bounds: Bounds) -> None:
        """Write all bounds; when this returns, they are on disk.

        :raises OSError: when that cannot be done, or another process may have the lock.
        """
        self._require_lock()
        write(self.path, bounds)
        self._length = os.stat(self.path).st_size
        self._appended = 0
        self._signature = self._stat()

    def update(self, changed: Bounds, all_bounds: Bounds) -> None:
        """Write some bounds, of a file that `replace` has written; they are on disk then.

        :param all_bounds: the changed ones included; written where the log is long.
        :raises OSError: as `replace`. The file has to be replaced then.
        """
        if self._appended + len(changed) > max(_MIN_LOG, 2 * len(all_bounds)):
            self.replace(all_bounds)
            return
        self._require_lock()
        entries = _rendered(changed)
        file = os.open(self.path, os.O_WRONLY)
        try:
            _write_at(file, entries, self._length)
            os.fsync(file)
            _write_at(file, _rendered_header(self._length + len(entries)), 0)
            os.fsync(file)
        finally:
            os.close(file)
        self._length += len(entries)
        self._appended += len(changed)
        self._signature = self._stat()

    def is_unchanged(self) -> bool:
        """Whether the file is the one that this process wrote last."""
        return self._signature is not None and self._stat() == self._signature

    def _require_lock(self) -> None:
        if not self.lock.take():
            raise OSError(errno.EBUSY, f"the lock file of {self.path} was removed or replaced")

    def _stat(self) -> tuple[int, ...] | None:
        """What changes when the file does; None when it cannot be seen."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class FenceLock:
    """Which process may write a fence: one, by flock(2) on a file beside it.

    The kernel releases it when the process ends, however it ends.
    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}.lock"
        self._file: int | None = None

    def take(self) -> bool:
        """Whether this process has it now.

        :raises OSError: when there can be no such file.
        """
        if self._file is None:
            try:
                # Another user may have made the file; read access is enough.
                file = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                file = os.open(self._path, os.O_RDONLY | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except OSError:
                os.close(file)
                raise
            self._file = file
        if self._is_current():
            return True
        # The file was removed, and another process could lock its successor.
        self.release()
        return False

    def _is_current(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False

    @property
    def held(self) -> bool:
        """Whether this process took it."""
        return self._file is not None

    def release(self) -> None:
        """Let another process take it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
