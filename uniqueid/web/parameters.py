"""From a query to what is asked for; every 400 is born here."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from uniqueid.errors import Fault, InvalidRequest
from uniqueid.model import (
    MAX_CLIENT_LENGTH,
    MAX_KEY_LENGTH,
    MAX_MODE_LENGTH,
    MIN_KEY_LENGTH,
    is_mode,
)

MAX_NONCE_LENGTH = 128

_PARAMETERS = frozenset({"range", "mode", "nonce"})
# As nearly everybody writes them.
_PLAIN = {name.encode(): name for name in _PARAMETERS}
_DECIMAL = re.compile(r"[0-9]+", re.ASCII)
# 2**63 has 19 digits; int() itself refuses more than 4,300 with an error of its own.
_MAX_DIGITS = 19
# Without quotes: no comma, which is between the values of a header that was sent twice.
_BARE_KEY = re.compile(r"[!#-+\--~]+", re.ASCII)
# A string of RFC 9651, 3.3.3.
_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"', re.ASCII)
# A value is echoed in the error, but not a page of it.
_MAX_ECHO = 100


@dataclass(frozen=True, slots=True)
class Request:
    """What one caller asks for."""

    mode: str
    count: int
    """How many IDs; 0 is the question of a bundle without files, and allocates nothing."""
    nonce: str | None = None
    """What the answer must repeat, as proof that it was made for this request."""
    nonce_in_query: bool = False
    key: str | None = None
    """What stands for this request, however often it is sent."""


@dataclass(frozen=True)
class Limits:
    """What a site allows."""

    max_range: int = 1_000_000_000
    allowed_modes: Container[str] | None = None
    """None allows every mode."""
    allowed_modes_text: str = ""


def parse(
    limits: Limits,
    query: str,
    form: str = "",
    header: str | None = None,
    key: str | None = None,
) -> Request:
    """Read the parameters of an allocation.

    :param query: ``application/x-www-form-urlencoded``, as a WSGI string, that is bytes in
        Latin-1's clothes (PEP 3333).
    :param form: the same from the body.
    :param header: the nonce, when it came in a header; a WSGI string as well.
    :param key: the header Idempotency-Key, the same.
    :raises InvalidRequest: with every parameter that is wrong.
    """
    values: dict[str, list[bytes]] = {}
    _collect(query, values)
    in_query = "nonce" in values
    if form:
        _collect(form, values)
    faults: list[Fault] = []
    count = _read_range(values.get("range", []), limits.max_range, faults)
    mode = _read_mode(values.get("mode", []), limits, faults)
    nonces = values.get("nonce", [])
    if header is not None:
        nonces.append(header.encode("latin-1", "replace"))
    nonce = _read_nonce(nonces, faults) if nonces else None
    if key is not None:
        key = _read_key(key, faults)
    if faults:
        raise InvalidRequest(*faults, nonce=nonce)
    return Request(mode, count, nonce, in_query, key)


def _collect(encoded: str, values: dict[str, list[bytes]]) -> None:
    for pair in encoded.encode("latin-1", "replace").split(b"&"):
        name, _, value = pair.partition(b"=")
        key = _PLAIN.get(name) or _unquote(name).decode("utf-8", "replace")
        if key in _PARAMETERS:
            values.setdefault(key, []).append(_unquote(value))


def _unquote(value: bytes) -> bytes:
    if b"%" in value or b"+" in value:
        return unquote_to_bytes(value.replace(b"+", b" "))
    return value


def _read_range(values: list[bytes], max_range: int, faults: list[Fault]) -> int:
    allowed = f"give one whole number from 0 to {max_range}, in decimal digits"
    if len(values) != 1:
        shown = ", ".join(_shown(value) for value in values) if values else None
        faults.append(Fault("bad-range", "range", shown, allowed))
        return 0
    text = values[0].decode("utf-8", "replace")
    digits = text.lstrip("0") or "0"
    if not _DECIMAL.fullmatch(text) or len(digits) > _MAX_DIGITS or int(digits) > max_range:
        faults.append(Fault("bad-range", "range", _shown(values[0]), allowed))
        return 0
    return int(digits)


def _read_mode(values: list[bytes], limits: Limits, faults: list[Fault]) -> str:
    allowed = (
        f"give one name of 1 to {MAX_MODE_LENGTH} characters in UTF-8, without control characters"
    )
    mode = ""
    if len(values) == 1:
        try:
            mode = values[0].decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            if not is_mode(mode):
                mode = ""
            elif limits.allowed_modes is not None and mode not in limits.allowed_modes:
                allowed = f"this service is set to answer for {limits.allowed_modes_text} alone"
                mode = ""
    if not mode:
        shown = ", ".join(_shown(value) for value in values) if values else None
        faults.append(Fault("bad-mode", "mode", shown, allowed))
    return mode


def _read_nonce(values: list[bytes], faults: list[Fault]) -> str | None:
    text = values[0].decode("latin-1")
    if len(values) == 1 and is_nonce(text):
        return text
    allowed = (
        f"give one of 1 to {MAX_NONCE_LENGTH} printable ASCII characters, as a parameter or in"
        " the header X-Request-Nonce"
    )
    faults.append(Fault("bad-nonce", "nonce", ", ".join(map(_shown, values)), allowed))
    return None


def _read_key(header: str, faults: list[Fault]) -> str | None:
    """The key, with or without the quotes that make a string of a structured field (RFC 9651).

    draft-ietf-httpapi-idempotency-key-header-07, 2.1, has it in quotes; many clients have not.
    """
    text = header.strip(" \t")
    quoted = _QUOTED_KEY.fullmatch(text)
    if quoted is not None:
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    if (quoted or _BARE_KEY.fullmatch(text)) and MIN_KEY_LENGTH <= len(text) <= MAX_KEY_LENGTH:
        return text
    allowed = (
        f"give one of {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} printable ASCII characters, in double"
        " quotes if it has blanks, commas or quotes in it"
    )
    shown = _shown(header.encode("latin-1", "replace"))
    faults.append(Fault("bad-idempotency-key", "Idempotency-Key", shown, allowed))
    return None


@lru_cache(1024)
def client_name(header: str) -> str:
    """What a client calls itself, fit for the journal and for a terminal.

    :param header: a WSGI string. Control characters are replaced, and what is not ASCII is
        escaped: a database need not know any other character.
    """
    text = header.encode("latin-1", "replace").decode("utf-8", "replace")
    shown = "".join(character if character.isprintable() else "?" for character in text.strip())
    return shown.encode("ascii", "backslashreplace").decode("ascii")[:MAX_CLIENT_LENGTH]


def is_nonce(text: str) -> bool:
    """Whether a text can be a nonce; one that can is safe in a header."""
    return 0 < len(text) <= MAX_NONCE_LENGTH and text.isascii() and text.isprintable()


def _shown(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= _MAX_ECHO else f"{text[:_MAX_ECHO]}... ({len(text)} characters)"
