"""The write-ahead fence: a file outside the database that says up to where IDs may have gone out.

Of each counter it holds two numbers. Before an ID at or above `bound` is handed out, the bound is
moved on, by a whole window, so that the file is written once a window and not once a request; a
clean stop brings it back to the exact value. A counter that is found below the fence is raised to
it, whatever the database was restored from while nobody was looking.

The order is COMMIT, file, answer. A crash after the COMMIT leaves the database above the file, and
one after the file leaves both above what anybody got: a gap each time, never a duplicate.

The file is replaced as a whole: a temporary one beside it is written and synced, takes its name by
rename(2), and the directory is synced. So there is always one whole file, and one that is not is
damaged and refused. fsync(2) has to mean what it says on its file system.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from uniqueid.allocation.high_water_marks import HighWaterMarks
from uniqueid.errors import (
    MAX_ID,
    DatabaseUnavailable,
    FenceDamaged,
    FenceUnavailable,
    UniqueIDError,
)
from uniqueid.logs import Event
from uniqueid.model import CounterStore, CounterUpdate, Observer

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

_FORMAT: Final = "pacifica-uniqueid fence"
_VERSION: Final = 1


@dataclass(frozen=True)
class Mark:
    """What the file says of one counter."""

    exact: int
    """The next ID when this was written: the database had it then."""
    bound: int
    """No ID at or above this was handed out. Above `exact` unless the service stopped cleanly."""


# -- the file ---------------------------------------------------------------------------------


def read(path: str) -> dict[str, Mark]:
    """The marks of a file, by counter.

    :raises FileNotFoundError: when there is none.
    :raises FenceDamaged: when it is not exactly what was written.
    :raises OSError: when it cannot be read.
    """
    with open(path, "rb") as file:
        text = file.read()
    if not text:
        raise FenceDamaged(f"{path} is empty")
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise ValueError("it is no fence")
        version, count, counters = (document[key] for key in ("version", "count", "counters"))
        if version != _VERSION:
            newer = FenceDamaged(
                f"{path} has version {version!r} of the format, and this release knows {_VERSION}"
            )
            newer.newer = True
            raise newer
        marks = {counter: _mark(counter, entry) for counter, entry in counters.items()}
        if len(marks) != count:
            raise ValueError(f"it has {len(marks)} counters and says {count!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FenceDamaged(f"{path} is damaged: {error}") from error
    return marks


def salvage(path: str) -> dict[str, Mark]:
    """What can still be relied on of a damaged file: the counters whose checksum is right.

    :raises OSError: when it cannot be read at all; there is nothing in a file that is missing.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    marks = {}
    for line in lines:
        # One counter a line; what is no counter, or half of one, does not pass.
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            ((counter, entry),) = json.loads(b"{" + line.rstrip(b",") + b"}").items()
            marks[counter] = _mark(counter, entry)
    return marks


def _mark(counter: str, entry: Mapping[str, Any]) -> Mark:
    exact, bound = entry["exact"], entry["bound"]
    if entry["check"] != _checksum(counter, exact, bound):
        raise ValueError(f"the checksum of counter {counter!r} is wrong")
    if not 1 <= exact <= bound <= MAX_ID + 1:
        raise ValueError(f"the numbers of counter {counter!r} cannot be")
    return Mark(exact, bound)


def _checksum(counter: str, exact: int, bound: int) -> str:
    return f"{zlib.crc32(json.dumps([counter, exact, bound]).encode()):08x}"


def _rendered(marks: Mapping[str, Mark]) -> bytes:
    """The file's content: JSON, one counter a line, each with its checksum."""
    lines = []
    for counter, mark in sorted(marks.items()):
        check = _checksum(counter, mark.exact, mark.bound)
        entry = json.dumps({"exact": mark.exact, "bound": mark.bound, "check": check})
        lines.append(f"{json.dumps(counter)}: {entry}")
    head = json.dumps({"format": _FORMAT, "version": _VERSION, "count": len(marks)})
    return (head[:-1] + ', "counters": {\n' + ",\n".join(lines) + "\n}}\n").encode()


def write(path: str, marks: Mapping[str, Mark]) -> None:
    """Put a new file in the place of the old one; when this returns, it is on disk.

    :raises OSError: when it cannot be done. The old file, or the new one, is there then.
    """
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        # Another user's, from a command: it cannot be opened for writing, but it can be removed.
        os.unlink(temporary)
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            content = memoryview(_rendered(marks))
            while content:
                content = content[os.write(file, content) :]
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


class Lock:
    """Who may write a fence: one process, by flock(2) on a file beside it.

    The kernel gives it back when the process ends, however it ends.
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
                # The directory may be another's, who has made the file; read access is enough.
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
        if self._stands():
            return True
        # Somebody has removed the file, and another process could lock the next one.
        self.release()
        return False

    def _stands(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False

    @property
    def held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


# -- the store behind the fence ---------------------------------------------------------------


class FencedStore:
    """A store whose IDs reach nobody before the fence stands above them.

    It has what the allocator needs of a store, and one thread at a time uses it. Each call
    opens the fence first where that was not done yet or did not work.

    :param store: where the counters are.
    :param path: the file; its directory must exist.
    :param window: IDs by which a bound is moved on at a time.
    :param timeout: seconds for raising the counters when the fence is opened.
    """

    def __init__(
        self,
        store: CounterStore,
        path: str,
        *,
        window: int = 100_000,
        timeout: float = 10,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._path = os.path.abspath(path)
        self._window = window
        self._timeout = timeout
        self._observer = observer or Observer()
        self._clock = clock
        self._lock = Lock(self._path)
        self._marks: dict[str, Mark] = {}
        self._as_written: tuple[int, ...] | None = None
        # Not 0: the first comparison is due before the first connection is made here.
        self._openings = 1
        self.high_water_marks = HighWaterMarks()
        """Shared with the allocator. Of a counter used since the start the mark is exact, of any
        other it is the file's bound."""
        self.trouble: str | None = "it was not opened yet"
        """Why no IDs are handed out; None while all is well. For any thread."""

    @property
    def connections(self) -> int:
        """Changes when the counters have to be compared with the floors again."""
        return self._store.connections + self._openings

    def advance(
        self, totals: Mapping[str, int], high_water_marks: Mapping[str, int], **options: Any
    ) -> Mapping[str, CounterUpdate | UniqueIDError]:
        """As the store's; the fence stands above all IDs when this returns.

        :raises FenceUnavailable, FenceDamaged: nobody gets these IDs; they may be a gap.
        """
        self._stand()
        outcomes = self._store.advance(totals, self.high_water_marks, **options)
        moved: dict[str, int] = {}
        for outcome in outcomes.values():
            if isinstance(outcome, UniqueIDError):
                continue
            if outcome.next_id > 1:
                # Two modes can be one counter.
                moved[outcome.counter] = max(outcome.next_id, moved.get(outcome.counter, 1))
        if any(self._bound(counter) < next_id for counter, next_id in moved.items()):
            self._extend(moved)
        # Only now: what could not be fenced is handed out by nobody.
        for counter, next_id in moved.items():
            self.high_water_marks.raise_to(counter, next_id)
        return outcomes

    def counters(self) -> Mapping[str, int]:
        """Each mode and its next ID."""
        self._stand()
        return self._store.counters()

    def find(self, names: Collection[str]) -> Mapping[str, int]:
        """The next ID of each of the counters with these names, as the database compares names."""
        self._stand()
        return self._store.find(names)

    def ping(self) -> None:
        """Find out whether both the fence and the database can be used."""
        self._stand()
        self._store.ping()

    def disconnect(self) -> None:
        """Bring the bounds back to the exact values, let the fence go and close the connection."""
        if self._lock.held:
            try:
                self._write({counter: Mark(at, at) for counter, at in self._exact().items()})
            except FenceUnavailable as error:
                log.warning(
                    "%s; the next start leaves gaps of up to %d IDs", error, self._window
                )  # fmt: skip
            self._lock.release()
            self.trouble = "it was closed"
        self._store.disconnect()

    # -- opening ------------------------------------------------------------------------------

    def _stand(self) -> None:
        """Return when the fence stands: open, whole and writable."""
        try:
            if not self._lock.held:
                self._open()
            elif self.trouble is not None:
                self._write(self._marks)
            elif self._signature() != self._as_written:
                self._write(self._marks)
                log.error(
                    "the fence file %s was removed or changed by somebody else; it was written"
                    " again as this process knows it",
                    self._path,
                )
        except (FenceDamaged, FenceUnavailable) as error:
            self.trouble = f"{error.cause}{error.remedy}"
            raise

    def _open(self) -> None:
        try:
            if not self._lock.take():
                raise FenceUnavailable(
                    f"another process uses {self._path}; each needs a file of its own"
                )
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            marks = self._read()
            self._settle(marks)
            self._write({counter: Mark(at, at) for counter, at in self.high_water_marks.items()})
        except BaseException:
            self._lock.release()
            raise
        self._openings += 1
        log.info(Event("the fence stands", fence=self._path, counters=len(marks)))

    def _read(self) -> dict[str, Mark]:
        try:
            return read(self._path)
        except FileNotFoundError as error:
            if self._store.counters():
                raise FenceDamaged(
                    f"there is no file {self._path}, and the database has counters"
                ) from error
            # Nothing was ever handed out: the first start.
            return {}
        except OSError as error:
            raise self._unavailable(error) from error

    def _settle(self, marks: Mapping[str, Mark]) -> None:
        """Take the bounds for floors, and raise what a crash has left below them.

        After a stop that was not clean nobody knows how much of the window was used. A counter
        between `exact` and `bound` may well be right: it is raised with a line of information. One
        below `exact` has gone back; telling that, and mending it or not, is the allocator's part.
        """
        found = dict(self._store.counters()) if marks else {}
        found |= self._store.find([name for name in marks if name not in found])
        loose = {
            counter: mark.bound
            for counter, mark in marks.items()
            if mark.exact <= found.get(counter, 1) < mark.bound
        }
        if loose:
            outcomes = self._store.advance(
                dict.fromkeys(loose, 0),
                loose,
                repair=True,
                deadline=self._clock() + self._timeout,
            )
            for counter, outcome in outcomes.items():
                if isinstance(outcome, UniqueIDError):
                    raise DatabaseUnavailable(str(outcome))
                if outcome.database_next_id < outcome.first:
                    self._tell_gap(counter, outcome)
        for counter, mark in marks.items():
            self.high_water_marks.raise_to(counter, mark.bound)

    def _tell_gap(self, counter: str, raised: CounterUpdate) -> None:
        skipped = raised.first - raised.database_next_id
        self._observer.fence_skipped(skipped)
        log.info(
            Event(
                f"mode {counter!r} goes on at {raised.first}: the service was not stopped cleanly,"
                f" and up to there IDs may have gone out; a gap of at most {skipped} IDs",
                mode=counter,
                found=raised.database_next_id,
                expected=raised.first,
            )
        )

    # -- writing ------------------------------------------------------------------------------

    def _bound(self, counter: str) -> int:
        mark = self._marks.get(counter)
        return 1 if mark is None else mark.bound

    def _exact(self) -> dict[str, int]:
        return {
            counter: self.high_water_marks.get(counter, mark.bound)
            for counter, mark in self._marks.items()
        }

    def _extend(self, moved: Mapping[str, int]) -> None:
        """Move the bounds on, above the IDs which are about to be handed out."""
        marks = {}
        for counter, at in {**self._exact(), **moved}.items():
            bound = self._bound(counter)
            # With those that will need it soon: a write costs the same for all of them.
            if bound < at or (at < bound < at + self._window // 2):
                bound = min(at + self._window, MAX_ID + 1)
            marks[counter] = Mark(min(at, bound), bound)
        self._write(marks)

    def _write(self, marks: dict[str, Mark]) -> None:
        try:
            if not self._lock.take():
                raise FenceUnavailable(f"the lock file of {self._path} was removed or replaced")
            write(self._path, marks)
        except OSError as error:
            self._observer.fence_failed()
            raise self._unavailable(error) from error
        except FenceUnavailable as error:
            self.trouble = error.cause
            raise
        self._marks = marks
        self._as_written = self._signature()
        self.trouble = None
        self._observer.fence_written()

    def _unavailable(self, error: OSError) -> FenceUnavailable:
        self.trouble = f"{self._path}: {error.strerror or error}"
        return FenceUnavailable(self.trouble)

    def _signature(self) -> tuple[int, ...] | None:
        """What changes when the file does; None when it cannot be seen."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
