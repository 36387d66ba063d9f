"""Bearer tokens (RFC 6750), known by their SHA-256 alone, in a file that may change at any time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniqueid.errors import ConfigError, Unauthorized
from uniqueid.logs import Event

log = logging.getLogger(__name__)

_LOOK_AGAIN = 1.0
"""Seconds between two looks at the file."""
_LINE = re.compile(r"([A-Za-z0-9._@-]{1,64})\s+([0-9a-fA-F]{64})", re.ASCII)
# RFC 6750, 2.1: b64token; RFC 9110, 11.1: the scheme's case does not count.
_HEADER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]{1,512}=*) *", re.ASCII)


@dataclass(frozen=True)
class _Token:
    name: str
    digest: bytes


class Tokens:
    """The tokens of a file: a name and the SHA-256 of a token, in hex, on each line.

    Several count at once, so that a new one can be allocated before an old one goes. The file is
    read again when it has changed; if it cannot be used then, the tokens read before stay.

    :param file: its name.
    :param option: the setting, for errors.
    :param fallback: what the file had before a reload, for one that cannot be used now.
    :raises ConfigError: when it cannot be read, has a line of another form, or no token at all.
    """

    def __init__(
        self,
        file: str,
        option: str,
        *,
        fallback: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self.text = ""
        """What was read last and can be used."""
        self._option = option
        self._clock = clock
        self._looked = clock()
        self._lock = threading.Lock()
        try:
            self._version, self._tokens = self._read()
        except ConfigError as error:
            if fallback is None:
                raise
            self._version, self._tokens = self._stat(), self._parse(fallback)
            self.text = fallback
            log.error("%s; the tokens read before stay", error)

    def require(self, environ: Mapping[str, Any]) -> str:
        """The name of the token that a request carries.

        :raises Unauthorized: when it carries none, or one that does not count.
        """
        given = environ.get("HTTP_AUTHORIZATION")
        if not given:
            raise Unauthorized("send a token, as Authorization: Bearer TOKEN", "Bearer")
        match = _HEADER.fullmatch(given)
        name = None
        if match is not None:
            digest = hashlib.sha256(match[1].encode()).digest()
            # Each is compared, in constant time, whether one has matched or not.
            for token in self._current():
                if hmac.compare_digest(token.digest, digest):
                    name = token.name
        if name is None:
            raise Unauthorized("the token does not count here", 'Bearer error="invalid_token"')
        return name

    def _current(self) -> tuple[_Token, ...]:
        now = self._clock()
        if now - self._looked >= _LOOK_AGAIN and self._lock.acquire(blocking=False):
            try:
                self._looked = now
                self._look()
            finally:
                self._lock.release()
        return self._tokens

    def _look(self) -> None:
        version = self._stat()
        if version == self._version:
            return
        try:
            self._version, self._tokens = self._read()
        except ConfigError as error:
            # Told once for each state of the file.
            self._version = version
            log.error("%s; the tokens read before stay", error)
        else:
            names = ",".join(token.name for token in self._tokens)
            log.info(Event("tokens read again", option=self._option, names=names))

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[tuple[int, int, int] | None, tuple[_Token, ...]]:
        # Before its text: what is written in between is seen as a change.
        version = self._stat()
        try:
            text = Path(self._file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise self._wrong(str(reason)) from None
        tokens = self._parse(text)
        self.text = text
        return version, tokens

    def _parse(self, file: str) -> tuple[_Token, ...]:
        tokens = []
        for number, line in enumerate(file.splitlines(), 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                # Without the line: it may be a token that was put here by mistake.
                raise self._wrong(
                    f"line {number} must be a name (letters, digits and ._@-) and the SHA-256 of a"
                    " token in 64 hexadecimal digits"
                )
            tokens.append(_Token(match[1], bytes.fromhex(match[2])))
        if not tokens:
            raise self._wrong("has no token: no client could use the service")
        return tuple(tokens)

    def _wrong(self, reason: str) -> ConfigError:
        return ConfigError(self._option, self._file, "its file", reason)
