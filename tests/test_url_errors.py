"""Anything wrong in a database URL is one line that says what to do and has no secret."""

from __future__ import annotations

import os
import string
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import BIN

from uniqueid.config import load
from uniqueid.database_url import DatabaseURL, from_parts, parse
from uniqueid.errors import ConfigError

SECRET = "Sw0rd-Fish"
PLACES = (
    "{secret}://u:p@h:1/db",
    "{scheme}+{secret}://u:p@h/db",
    "{scheme}:{secret}@h/db",
    "{scheme}://{secret}",
    "{scheme}://{secret}@h:x/db",
    "{scheme}://u:{secret}@h:x/db",
    "{scheme}://u:{secret}@h",
    "{scheme}://u:{secret}@h/a/b",
    "{scheme}://u:{secret}@[h/db",
    "{scheme}://u:{secret}@[::1/db",
    "{scheme}://u:{secret}@[x]/db",
    "{scheme}://u:{secret}@h:1:2/db",
    "{scheme}://u:{secret}@h/db?x=1",
    "{scheme}://u:{secret}@h/db?connect_timeout=no",
    "{scheme}://u@{secret}:port/db",
    "{scheme}://u@h:{secret}/db",
    "{scheme}://u@h:1,{secret}]/db",
    "{scheme}://u@h/{secret}/x",
    "{scheme}://u@h/db?{secret}",
    "{scheme}://u@h/db?{secret}=1",
    "{scheme}://u@h/db?sslmode={secret}",
    "{scheme}://u@h/db?connect_timeout={secret}",
    "{scheme}://u@h/db?ssl_verify_cert={secret}",
    "{scheme}://u@h/db?target_session_attrs={secret}",
    "{scheme}://u@h/db?sslpassword={secret}",
    "{scheme}://u@h/db?password={secret}",
    "{scheme}://u:p@h/db#{secret}",
    "{scheme}://u:{secret}%ff@h/db",
    "{scheme}://u:{secret}%00@h/db",
    "{scheme}://u:{secret}\n@h/db",
    "{scheme}://u:{secret}\udcff@h/db",
    "{secret}",
)
"""Each is wrong, whatever stands for the secret."""

SCHEMES = ("mysql", "postgresql", "sqlite", "mysql+pool", "postgres+psycopg2")
MEANS_SOMETHING = "[]@:/?#%&=+ ,;\\\"'`<>|^{}~é\n\t\0"


def refusal(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(url, "[database] url", "here")
    message = str(caught.value)
    assert message.startswith("[database] url = ")
    assert "\n" not in message
    assert "(here): " in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_url_is_refused_without_the_secret_in_it(place: str, scheme: str) -> None:
    """Wherever it stands."""
    message = refusal(place.format(secret=SECRET, scheme=scheme))
    assert SECRET.lower() not in message.lower()


def test_a_bracket_in_a_password_is_no_traceback() -> None:
    """It is told how to write it."""
    assert "[ is %5B" in refusal(f"mysql://u:p[{SECRET}@h/db")
    for character in "/?#[]":
        message = refusal(f"mysql://u:p{character}{SECRET}@h/db")
        assert "escaped" in message or "the option" in message or "an option" in message


secrets = st.tuples(
    st.text(MEANS_SOMETHING + string.ascii_letters, max_size=6),
    st.text(MEANS_SOMETHING + string.ascii_letters, max_size=6),
).map(lambda around: f"{around[0]}{SECRET}{around[1]}")


def outcome(url: str) -> DatabaseURL | str:
    """What a URL is read as, or the error."""
    try:
        return parse(url, "[database] url", "here")
    except ConfigError as error:
        return str(error)


@given(st.sampled_from(PLACES), st.sampled_from(SCHEMES), secrets)
def test_no_generated_url_shows_its_secret(place: str, scheme: str, secret: str) -> None:
    """It is read, with the secret hidden where it is the password, or is one line without it."""
    read = outcome(place.format(secret=secret, scheme=scheme))
    if isinstance(read, str):
        assert "\n" not in read
        assert SECRET.lower() not in read.lower()
    elif read.password is not None and SECRET in read.password:
        assert SECRET not in str(read).replace(str(read.user), "")


@given(st.text(max_size=40))
def test_no_text_is_a_traceback(text: str) -> None:
    """Whatever stands there."""
    for url in (text, f"mysql://{text}", f"postgresql://{text}", f"sqlite:///{text}"):
        read = outcome(url)
        assert isinstance(read, DatabaseURL) or "\n" not in read


@given(st.sampled_from(["PROTO", "USER", "PASS", "ADDR", "PORT", "DATABASE"]), secrets)
def test_no_part_of_the_legacy_image_shows_a_whole_url(part: str, secret: str) -> None:
    """Which is a likely mistake for a part; the password is shown by none."""
    parts = {"PROTO": "mysql", "USER": "u", "PASS": secret, "ADDR": "h", "DATABASE": "d"}
    parts[part] = f"mysql://u:{secret}@h/d" if part != "PASS" else secret
    try:
        url = from_parts({f"PEEWEE_{name}": value for name, value in parts.items()})
    except ConfigError as error:
        read: DatabaseURL | str = str(error)
    else:
        assert url is not None
        read = outcome(url)
    if isinstance(read, str):
        assert SECRET.lower() not in read.lower()
    else:
        assert read.password == secret.removeprefix("\ufeff").rstrip("\r\n")


@pytest.mark.parametrize("place", PLACES[5::10])
def test_a_command_ends_with_one_line(place: str) -> None:
    """And exit status 2, as with any setting that cannot be used."""
    url = place.format(secret=SECRET, scheme="mysql")
    done = subprocess.run(
        [BIN / "pacifica-uniqueid-cmd", "config"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "UNIQUEID_DATABASE_URL": url.replace("\0", ""),
        },
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "[database] url" in line
    assert SECRET.lower() not in line.lower()


def test_a_byte_order_mark_and_ends_of_lines_are_no_part_of_a_url() -> None:
    """From wherever it was read."""
    for text in ("\ufeffmysql://u:p@h/db", "mysql://u:p@h/db\r\n", " mysql://u:p@h/db \n"):
        assert parse(text, "url", "here").database == "db"
        assert load(environ={"UNIQUEID_DATABASE_URL": text}).database.password == "p"
