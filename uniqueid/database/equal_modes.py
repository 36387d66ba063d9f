"""Which modes are one counter: the database decides, by the collation of its column.

A collation can make more strings equal than those that differ in case: accents, blanks at the end,
zero-width characters, all emoji. So names are compared by the database, never here, and always with
the column itself, whose collation counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pony.orm import db_session

from uniqueid.database.engine import Engine
from uniqueid.database.errors import Cause, LostUpdate, classify

_FIND_STEP = 100
"""Counters that are looked up in one statement."""
_COMPARE_STEP = 500
"""Names that are compared in one statement; SQLite before 3.32 takes 999 parameters."""


class EqualModes:
    """The equal names among the modes of one database.

    A counter has one high-water mark as a rule, under the first name by which this process met it.
    Only a fence can bring several along, of names that became equal since.

    Used by one thread at a time, as the store that owns it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection = 0
        """The connection on which `_marks` were found, by its number."""
        quote = engine.dialect.quote
        self._table, self._id, self._value = quote("uniqueindex"), quote("id"), quote("index")
        self._marks: dict[str, tuple[str, ...]] = {}
        """Counter to the names of its high-water marks."""
        self._names: set[str] = set()
        """All names that a high-water mark has or may get."""
        self._compared = 0
        """How many high-water marks there were when they were last seen to be among `_names`."""
        self._not_storable: set[str] = set()

    def marks(self, counter: str, high_water_marks: Mapping[str, int]) -> tuple[str, ...]:
        """The names under which a counter may have a high-water mark.

        To be called inside a transaction, for a counter whose row is there.

        :param counter: as its row spells it.
        :param high_water_marks: by name; none is ever removed.
        :returns: the same names in the same order for each of the counter's spellings. The first
            is where its next high-water mark belongs.
        """
        if self._connection != self._engine.connections:
            # Another session can lead to a table with another collation.
            self._marks.clear()
            self._connection = self._engine.connections
        if len(high_water_marks) != self._compared:
            new = high_water_marks.keys() - self._names
            if new:
                self._names |= new
                self._marks.clear()
            self._compared = len(high_water_marks)
        names = self._marks.get(counter)
        if names is None:
            equal = self._equal(counter, list(self._names - {counter} - self._not_storable))
            if counter in self._names or not equal:
                equal.append(counter)
            names = self._marks[counter] = tuple(sorted(equal))
            self._names.update(names)
        return names

    def _equal(self, counter: str, names: Sequence[str]) -> list[str]:
        """Those of the names which the column has for equal to a counter's.

        :raises LostUpdate: when its row is gone, and with it the lock on it.
        """
        equal: list[str] = []
        for page in _pages(names, _COMPARE_STEP):
            comparison = f"{self._id} = {self._engine.dialect.placeholder}"
            comparisons = ", ".join([comparison] * len(page))
            sql = f"SELECT {comparisons} FROM {self._table} WHERE {comparison}"
            cursor = self._engine.execute(sql, (*page, counter))
            row = cursor.fetchone()
            if row is None:
                raise LostUpdate
            equal += [name for name, same in zip(page, row, strict=True) if same]
        return equal

    def find(self, names: Collection[str]) -> dict[str, int]:
        """The next ID of each of the counters with these names, however their rows spell them.

        :returns: by the name that was asked for, without those that have no counter.
        """
        found: dict[str, int] = {}
        for page in _pages(sorted(names), _FIND_STEP):
            try:
                found |= self._find(page)
            except Exception as error:
                if classify(error) is not Cause.NOT_STORABLE:
                    raise
                for name in page:
                    found |= self._find_alone(name)
        return found

    def _find_alone(self, name: str) -> dict[str, int]:
        try:
            return self._find([name])
        except Exception as error:
            if classify(error) is not Cause.NOT_STORABLE:
                raise
            # No row can have it.
            self._not_storable.add(name)
            return {}

    def _find(self, names: Sequence[str]) -> dict[str, int]:
        # Of few lengths, since Pony remembers every statement that it has seen.
        missing = (1 << (len(names) - 1).bit_length()) - len(names)
        padded = [*names, *[names[-1]] * missing]
        sql = " UNION ALL ".join(
            f"SELECT {number}, {self._value} FROM {self._table} WHERE {self._id} = $n{number}"
            for number in range(len(padded))
        )
        values: dict[str, Any] = {f"n{number}": name for number, name in enumerate(padded)}
        with db_session:
            # Not execute(), which takes SQLite's lock for writing.
            rows = self._engine.database.select(sql, {}, values)
        return {padded[int(number)]: int(next_id) for number, next_id in rows}


def _pages(names: Sequence[str], step: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), step):
        yield names[start : start + step]
