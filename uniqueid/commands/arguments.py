"""The types of arguments that commands share; each error names the value and what is allowed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime

from uniqueid.model import MAX_MODE_LENGTH, is_mode

UNUSABLE = 2
"""The exit status for a command line or a setting that cannot be used, as argparse's own."""


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """A whole number within two bounds, in decimal digits."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a whole number from {low} to {high}, in decimal digits"
            )
        return int(text)

    return read


def seconds(text: str) -> float:
    """A time-out."""
    if not (re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text, re.ASCII) and float(text) >= 0.1):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds from 0.1 to 99999")
    return float(text)


def name(text: str) -> str:
    """The name of a token."""
    if not re.fullmatch(r"[!-\"$-~][!-~]{0,127}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} must have 1 to 128 ASCII characters, no blanks")
    return text


def mode(text: str) -> str:
    """The name of a counter."""
    if not is_mode(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} must have 1 to {MAX_MODE_LENGTH} characters and no control characters"
        )
    return text


def time_with_offset(text: str) -> datetime:
    """A time that says which it is everywhere."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a time with its offset, as 2026-01-31T12:00:00Z"
        )
    return time


def microseconds(text: str) -> int:
    """A time in microseconds since 1970; in UTC where it does not say."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a time in ISO 8601, as 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1_000_000)
