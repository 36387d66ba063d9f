"""The highest IDs that may have been allocated."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any


class HighWaterMarks(Mapping[str, int]):
    """Counter to the lowest ID that may still be allocated.

    A mark only ever increases. The thread that holds the store lock raises marks, through the
    allocator or the fence; any thread reads. One lock guards the dictionary where it grows or is
    iterated; a lookup is a single operation.
    """

    def __init__(self, marks: Mapping[str, int] | None = None) -> None:
        self._lock = threading.Lock()
        self._marks = dict(marks or {})

    def raise_to(self, counter: str, next_id: int) -> None:
        """Raise a mark; one that is higher already stays. 1 is no mark: no ID was allocated."""
        with self._lock:
            if next_id > self._marks.get(counter, 1):
                self._marks[counter] = next_id

    def __getitem__(self, counter: str) -> int:
        return self._marks[counter]

    def get(self, counter: str, default: Any = None) -> Any:
        """A mark, without the exception that Mapping's own `get` handles where there is none."""
        return self._marks.get(counter, default)

    def __contains__(self, counter: object) -> bool:
        return counter in self._marks

    def __len__(self) -> int:
        return len(self._marks)

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot())

    def snapshot(self) -> dict[str, int]:
        """All marks at this moment."""
        with self._lock:
            return dict(self._marks)
