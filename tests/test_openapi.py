"""The description of the API: valid, and with the limits of the code."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from openapi_spec_validator import validate

from uniqueid import __version__
from uniqueid.errors import MAX_ID
from uniqueid.model import MAX_KEY_LENGTH, MAX_MODE_LENGTH, MIN_KEY_LENGTH
from uniqueid.web import openapi
from uniqueid.web.caching import NEVER_CACHED
from uniqueid.web.parameters import MAX_NONCE_LENGTH

SWITCHES = ("tokens", "status_tokens", "status_page")


@pytest.mark.parametrize("modes", [(), ("file", "a mode")])
@pytest.mark.parametrize("switches", [*itertools.product((False, True), repeat=3)])
def test_the_description_is_valid(switches: tuple[bool, ...], modes: tuple[str, ...]) -> None:
    """OpenAPI 3.1, with every combination of settings; what is switched off is not in it."""
    settings: dict[str, Any] = dict(zip(SWITCHES, switches, strict=True))
    described = openapi.document(max_range=50, allowed_modes=modes, **settings)
    validate(described)
    text = json.dumps(described)
    assert ("statusToken" in text) is settings["status_tokens"]
    assert ("auth_tokens_file" in text) is settings["tokens"]
    assert ("/status.json" in text) is settings["status_page"]
    assert described["info"]["version"] == __version__
    assert set(described["paths"]["/getid"]["get"]["responses"]) >= {"200", "400", "503"}
    assert ("401" in described["paths"]["/getid"]["post"]["responses"]) is settings["tokens"]


def test_its_limits_are_those_of_the_code() -> None:
    """For the parameters of GET and for the form of POST."""
    described = openapi.document(max_range=50)
    getid = described["paths"]["/getid"]
    found = {one["name"]: one["schema"] for one in getid["get"]["parameters"]}
    form = getid["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    for schemas in (found, form["properties"]):
        assert schemas["range"]["maximum"] == 50
        assert schemas["mode"]["maxLength"] == MAX_MODE_LENGTH
        assert schemas["nonce"]["maxLength"] == MAX_NONCE_LENGTH
    key = found["Idempotency-Key"]
    assert (key["minLength"], key["maxLength"]) == (MIN_KEY_LENGTH, MAX_KEY_LENGTH)
    schemas = described["components"]["schemas"]
    assert schemas["Range"]["properties"]["endIndex"]["maximum"] == MAX_ID
    header = getid["get"]["responses"]["200"]["headers"]["Cache-Control"]["schema"]["const"]
    assert header == dict(NEVER_CACHED)["Cache-Control"]


def test_a_service_with_modes_of_its_own_names_them() -> None:
    """In place of the general form of a mode."""
    described = openapi.document(allowed_modes=("upload_job", "file"))
    for one in described["paths"]["/getid"]["get"]["parameters"]:
        if one["name"] == "mode":
            assert one["schema"]["enum"] == ["file", "upload_job"]
            assert "pattern" not in one["schema"]
            return
    raise AssertionError("no mode")
