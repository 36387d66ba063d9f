"""The checker of the fault tests: each way for a history to be wrong must be caught."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "chaos"))

from checker import MAX_ID, check
from history import Call, History


def call(client: int, first: int | None, count: int = 10, at: float = 0, **more: object) -> Call:
    """A call for mode m that takes one second; unanswered when `first` is None."""
    last = None if first is None else first + count - 1
    known = {"mode": "m", "begin": at, "end": at + 1, "first": first, "last": last, **more}
    return Call(client=client, count=count, **known)  # type: ignore[arg-type]


GOOD = [call(1, 1, at=0), call(2, 11, at=0.5), call(1, 21, at=2), call(2, 31, at=3)]


def test_a_right_history_has_no_violations_and_is_counted() -> None:
    """Four disjoint ranges up to the counter: nothing to complain about."""
    verdict = check(GOOD, {"m": 41}, ambiguous=False)
    assert verdict.violations == []
    assert (verdict.calls, verdict.answers, verdict.unanswered) == (4, 4, 0)
    assert (verdict.gaps, verdict.duplicates, verdict.refused) == (0, 0, 0)


def test_ranges_of_different_modes_may_be_the_same() -> None:
    """Each mode has a counter of its own."""
    other = [call(3, 1, mode="n")]
    assert check([*GOOD, *other], {"m": 41, "n": 11}, ambiguous=False).violations == []


def test_an_unanswered_call_may_leave_a_gap_of_its_size_or_none() -> None:
    """The client cannot know whether its IDs were taken."""
    lost = call(3, None, 7)
    for counter in (41, 48):
        verdict = check([*GOOD, lost], {"m": counter}, ambiguous=False)
        assert verdict.violations == []
        assert (verdict.unanswered, verdict.gaps) == (1, counter - 41)
    # In the middle as well as at the end.
    middle = [call(1, 1, at=0), call(3, None, 7), call(2, 18, at=1.5)]
    assert check(middle, {"m": 28}, ambiguous=False).violations == []


def test_an_ambiguous_commit_may_leave_a_gap_though_all_were_answered() -> None:
    """Where a COMMIT can be lost, the transaction is done again."""
    verdict = check(GOOD, {"m": 141}, ambiguous=True)
    assert verdict.violations == []
    assert verdict.gaps == 100


def test_a_mode_that_existed_starts_where_it_was() -> None:
    """IDs below the first counter are not gaps of this history."""
    calls = [call(1, 1001)]
    verdict = check(calls, {"m": 1011}, initial={"m": 1001}, ambiguous=False)
    assert (verdict.violations, verdict.gaps) == ([], 0)


WRONG = {
    "the same range twice": ([*GOOD, call(3, 31, at=3)], 41, "two answers"),
    "ranges that overlap by one": ([call(1, 1), call(2, 10)], 20, "1 IDs from 10 on"),
    "a range inside another": ([call(1, 1, 100), call(2, 50, 2)], 101, "2 IDs from 50 on"),
    "a long range hides a later overlap": (
        [call(1, 1, 100), call(2, 5, 1), call(3, 90, 5)],
        101,
        "5 IDs from 90 on",
    ),
    "an ID above the counter": (GOOD, 40, "not above"),
    "an answer without a counter": (GOOD, None, "no counter"),
    "an ID below 1": ([call(1, 0)], 11, "outside of"),
    "the answer for an empty range": ([call(1, -1, 10, last=-3)], 11, "outside of"),
    "an ID past the highest": ([call(1, MAX_ID - 8)], MAX_ID + 2, "outside of"),
    "too few IDs": ([call(1, 1, 10, last=9)], 11, "wrong size"),
    "too many IDs": ([call(1, 1, 10, last=11)], 12, "wrong size"),
    "no end": ([call(1, 1, 10, last=None)], 11, "wrong size"),
    "a client's later answer is lower": (
        [call(1, 11, at=0), call(1, 1, at=2)],
        21,
        "client 1 got a lower range later",
    ),
    "another client's later answer is lower": (
        [call(1, 11, at=0), call(2, 1, at=2)],
        21,
        "began after another had ended",
    ),
    "a gap without a reason": (GOOD, 42, "a gap of 1 IDs"),
    "a gap larger than the unanswered call": ([*GOOD, call(3, None, 7)], 49, "account for 7"),
    "a gap from a refused call": ([*GOOD, call(3, None, 7, status=409)], 48, "account for 0"),
    "an internal error": ([*GOOD, call(3, None, status=500)], 41, "undeclared status"),
    "a refusal of a good request": ([*GOOD, call(3, None, status=400)], 41, "undeclared status"),
    "a redirect": ([*GOOD, call(3, None, status=302)], 41, "undeclared status"),
    "a call that ends before it begins": ([call(1, 1, end=-1)], 11, "broken log"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_history_is_caught(name: str) -> None:
    """Every kind of broken promise is told, with words that say which."""
    calls, counter, words = WRONG[name]
    counters = {} if counter is None else {"m": counter}
    verdict = check(calls, counters, ambiguous=False)
    assert any(words in violation for violation in verdict.violations), verdict.violations


@pytest.mark.parametrize(
    ("calls", "counter", "initial"),
    [([call(1, 1)], 111, 101), ([], 50, 101)],
    ids=["an answer from below the first counter", "a regressed counter"],
)
def test_what_was_before_the_history_counts(calls: list[Call], counter: int, initial: int) -> None:
    """IDs from before are taken, and counters never go back."""
    assert check(calls, {"m": counter}, initial={"m": initial}, ambiguous=True).violations


def test_ambiguity_excuses_gaps_and_nothing_else() -> None:
    """A duplicate, a wrong order and a counter too low are violations after any fault."""
    assert check([*GOOD, call(3, 1, at=0)], {"m": 41}, ambiguous=True).duplicates == 10
    for calls, counter in (
        ([call(1, 1), call(2, 1)], 11),
        ([call(1, 11, at=0), call(2, 1, at=2)], 21),
        (GOOD, 40),
    ):
        assert check(calls, {"m": counter}, ambiguous=True).violations


def test_three_answers_with_one_range_count_as_two_duplicates_of_each_id() -> None:
    """The report counts every further answer that an ID is in."""
    verdict = check([call(n, 1) for n in (1, 2, 3)], {"m": 11}, ambiguous=False)
    assert verdict.duplicates == 20


def test_a_history_keeps_every_call() -> None:
    """What is noted can be read back, and answers are counted by mode."""
    history = History()
    for item in [*GOOD, call(3, None), call(4, 1, mode="n")]:
        history.add(item)
    assert len(history.calls) == 6
    assert (history.answers(), history.answers("m"), history.answers("n")) == (5, 4, 1)
