"""Tokens: who gets in, how they change, and what is never said."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest
from fakes import Clock, FakeAllocator
from web import assert_problem, call

from uniqueid.errors import ConfigError, Unauthorized
from uniqueid.monitoring.metrics import Metrics
from uniqueid.web.app import make_app
from uniqueid.web.auth import Tokens
from uniqueid.web.parameters import Limits

OPTION = "[uniqueid] auth_tokens_file"


def line(name: str, token: str) -> str:
    return f"{name} {hashlib.sha256(token.encode()).hexdigest()}\n"


def header(token: str) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": f"Bearer {token}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two tokens at once, as while one is replaced."""
    file = tmp_path / "tokens"
    file.write_text("# of the site\n" + line("ingest", "one") + "\n" + line("ingest-new", "two=="))
    return file


def test_every_token_of_the_file_counts_under_its_name(file: Path) -> None:
    """The scheme's case does not matter."""
    tokens = Tokens(str(file), OPTION)
    assert tokens.require(header("one")) == "ingest"
    assert tokens.require({"HTTP_AUTHORIZATION": "bearer  two=="}) == "ingest-new"


@pytest.mark.parametrize(
    "given",
    [None, "", "one", "Basic one", "Bearer", "Bearer ", "Bearer three", "Bearer one two",
     "Bearer ONE", "Bearer one\x00", "Bearer ön", "Bearer " + "x" * 5000,
     "Bearer " + hashlib.sha256(b"one").hexdigest()],
)  # fmt: skip
def test_nothing_else_counts(file: Path, given: str | None) -> None:
    """Neither a token's hash, nor a token in other letters; and it is not repeated."""
    environ = {} if given is None else {"HTTP_AUTHORIZATION": given}
    with pytest.raises(Unauthorized) as error:
        Tokens(str(file), OPTION).require(environ)
    assert "one" not in str(error.value)


def test_the_file_is_read_again_when_it_has_changed(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new token counts and a removed one does not, without a restart; who changes it is told."""
    clock = Clock(0.0)
    tokens = Tokens(str(file), OPTION, clock=clock)
    other = file.with_name("other")
    other.write_text(line("late", "three"))
    os.replace(other, file)
    clock.now += 2
    with caplog.at_level(logging.INFO, "uniqueid"):
        assert tokens.require(header("three")) == "late"
    assert "late" in caplog.text
    assert "three" not in caplog.text
    with pytest.raises(Unauthorized):
        tokens.require(header("one"))


@pytest.mark.parametrize("text", [None, "", "# none\n", "ingest one\n", "only-a-name\n"])
def test_a_file_that_breaks_leaves_the_tokens_as_they_were(
    file: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    """The log says so once; while it is broken the accepted tokens stay the same."""
    clock = Clock(0.0)
    tokens = Tokens(str(file), OPTION, clock=clock)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    for _ in range(3):
        clock.now += 2
        assert tokens.require(header("one")) == "ingest"
    (entry,) = caplog.records
    assert OPTION in entry.getMessage()
    assert "the tokens read before stay" in entry.getMessage()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        (b"", "has no token"),
        (b"ingest my-secret\n", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b"a b " + b"0" * 64, "line 1"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(
    tmp_path: Path, text: bytes | None, reason: str
) -> None:
    """With option, file and reason, but not with what may be a token."""
    file = tmp_path / "tokens"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ConfigError) as error:
        Tokens(str(file), OPTION)
    assert reason in str(error.value)
    assert str(file) in str(error.value)
    assert "my-secret" not in str(error.value)


def test_ids_and_status_have_tokens_of_their_own(file: Path, tmp_path: Path) -> None:
    """A 401 is a problem document with a challenge, and allocates nothing."""
    status_file = tmp_path / "status"
    status_file.write_text(line("prometheus", "watch"))
    allocator = FakeAllocator()
    app = make_app(
        allocator,
        Limits(),
        checks={"database": lambda: "root@db refused"},
        metrics=Metrics(),
        tokens=Tokens(str(file), OPTION),
        status_tokens=Tokens(str(status_file), OPTION),
    )
    for target, good, bad in [
        ("/getid?range=1&mode=a", "one", "watch"),
        ("/metrics", "watch", "one"),
    ]:
        response = call(app, "GET", target)
        assert_problem(response, 401, "unauthorized")
        assert response.headers["Www-Authenticate"] == "Bearer"
        response = call(app, "GET", target, **header(bad))
        assert_problem(response, 401, "unauthorized")
        assert response.headers["Www-Authenticate"] == 'Bearer error="invalid_token"'
        assert call(app, "GET", target, **header(good)).status == 200
    assert_problem(call(app, "POST", "/getid?range=1&mode=a", b""), 401, "unauthorized")
    assert allocator.requests == [("a", 1)]
    for path in ("/", "/livez"):
        assert call(app, "GET", path).status == 200
    assert call(app, "GET", "/readyz").json["checks"] == {"database": "failed"}
    told = call(app, "GET", "/readyz", **header("watch")).json["checks"]
    assert told == {"database": "root@db refused"}
