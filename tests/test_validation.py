"""From a query to a request, or to a 400."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniqueid.errors import InvalidRequest
from uniqueid.model import is_mode
from uniqueid.web.parameters import Limits, Request, parse

LIMITS = Limits(max_range=1000)


def refused(query: str, limits: Limits = LIMITS) -> set[str]:
    """The parameters which a query is refused for."""
    with pytest.raises(InvalidRequest) as caught:
        parse(limits, query)
    return {fault.parameter for fault in caught.value.faults}


def test_range_and_mode_are_read_in_any_order_and_others_ignored() -> None:
    """Unknown parameters were always ignored."""
    assert parse(LIMITS, "range=10&mode=file") == Request("file", 10)
    assert parse(LIMITS, "x=1&mode=file&range=10&=&&y") == Request("file", 10)


def test_a_form_counts_like_the_query() -> None:
    """A POST may have its parameters in either, or one in each."""
    assert parse(LIMITS, "range=10", "mode=file") == Request("file", 10)
    with pytest.raises(InvalidRequest):
        parse(LIMITS, "range=10&mode=file", "mode=file")


def test_zero_is_allowed() -> None:
    """Ingest asks for 0 IDs when a bundle has no files."""
    assert parse(LIMITS, "range=0&mode=file").count == 0


@pytest.mark.parametrize(
    "value",
    ["", "x", "-1", "+1", "%2B1", "1.0", "1e3", "0x10", "1_0", " 1", "1%20", "1001", "%D9%A1", "²"]
    + ["9" * 19, "9" * 20, "9" * 5000, "%00", "%ff", "1%0A", "NaN"],
)
def test_what_is_no_plain_decimal_in_bounds_is_refused(value: str) -> None:
    """Nothing is guessed about a range."""
    assert refused(f"range={value}&mode=file") == {"range"}


def test_leading_zeros_are_decimal() -> None:
    """The legacy service read them too."""
    assert parse(LIMITS, f"range={'0' * 500}7&mode=file").count == 7


@pytest.mark.parametrize(
    "value",
    ["", "%00", "a%0Ab", "%7F", "%C2%85", "%ff", "%ED%A0%80", "a" * 256, quote("ä" * 256)],
)
def test_what_is_no_mode_is_refused(value: str) -> None:
    """A mode has 1 to 255 characters of UTF-8 and no control characters."""
    assert refused(f"range=1&mode={value}") == {"mode"}


@pytest.mark.parametrize(
    "mode", ["file", "a" * 255, "😀" * 255, " ", "a b", "'; DROP TABLE uniqueindex; --", "-1"]
)
def test_other_modes_are_allowed_as_they_are(mode: str) -> None:
    """Blanks, SQL and the whole of Unicode are letters of a name."""
    assert parse(LIMITS, f"range=1&mode={quote(mode)}").mode == mode
    assert parse(LIMITS, f"range=1&mode={quote_plus(mode)}").mode == mode
    # As a careless client sends it: raw bytes, which a WSGI server hands on as Latin-1.
    raw = mode.replace("%", "%25").replace("+", "%2B").replace("&", "%26").replace(";", "%3B")
    assert parse(LIMITS, f"range=1&mode={raw.encode().decode('latin-1')}").mode == mode


@pytest.mark.parametrize("parameter", ["range", "mode"])
def test_a_repeated_parameter_is_refused(parameter: str) -> None:
    """Which of the two was meant cannot be known."""
    assert refused(f"range=1&mode=file&{parameter}=1") == {parameter}
    assert refused(f"range=1&mode=file&%{ord(parameter[0]):x}{parameter[1:]}=1") == {parameter}


def test_every_fault_is_reported() -> None:
    """A caller learns of all mistakes at once."""
    assert refused("") == {"range", "mode"}


def test_a_mode_outside_the_allowed_ones_is_refused() -> None:
    """The error says which are allowed."""
    limits = Limits(allowed_modes={"file"}, allowed_modes_text="file")
    assert parse(limits, "range=1&mode=file").mode == "file"
    with pytest.raises(InvalidRequest, match=r"mode is 'fil': .* file alone"):
        parse(limits, "range=1&mode=fil")


def test_an_error_names_parameter_value_and_what_is_allowed_and_is_short() -> None:
    """A value is shown, but not a page of it."""
    with pytest.raises(InvalidRequest, match=r"range is '1001': .* from 0 to 1000"):
        parse(LIMITS, "range=1001&mode=file")
    with pytest.raises(InvalidRequest) as caught:
        parse(LIMITS, "range=1&mode=" + "x" * 8000)
    assert len(str(caught.value)) < 400


@given(st.integers(0, 1000), st.text(min_size=1, max_size=255))
def test_what_a_client_encodes_arrives_unchanged(count: int, mode: str) -> None:
    """Every mode that is one comes through urlencode and back."""
    try:
        query = urlencode({"range": count, "mode": mode})
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        assert not is_mode(mode)
        return
    if any(unicodedata.category(character) == "Cc" for character in mode):
        assert refused(query) == {"mode"}
    else:
        assert parse(LIMITS, query) == Request(mode, count)


@given(st.binary(max_size=300))
def test_no_query_is_anything_but_a_request_or_a_refusal(query: bytes) -> None:
    """Whatever bytes arrive, there is no other exception."""
    try:
        asked = parse(LIMITS, query.decode("latin-1"))
    except InvalidRequest:
        return
    assert 0 <= asked.count <= 1000
    assert is_mode(asked.mode)
