"""The description of the API as OpenAPI 3.1, from `openapi.json`, as the settings have it.

https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

from uniqueid import __version__

Schema = dict[str, Any]


def document(
    *,
    max_range: int = 1_000_000_000,
    allowed_modes: Iterable[str] = (),
    tokens: bool = False,
    status_tokens: bool = False,
    status_page: bool = True,
) -> Schema:
    """The description of a service with these settings."""
    text = resources.files(__package__).joinpath("openapi.json").read_text(encoding="utf-8")
    described: Schema = json.loads(text)
    described["info"]["version"] = __version__
    paths, components = described["paths"], described["components"]
    for schemas in _parameter_schemas(paths["/getid"]):
        schemas["range"]["maximum"] = max_range
        _restrict(schemas["mode"], sorted(allowed_modes))
    if not status_page:
        _drop_status_page(paths, components)
    if not tokens:
        _drop_scheme("token", paths, components)
    if not status_tokens:
        _drop_scheme("statusToken", paths, components)
    if not components["securitySchemes"]:
        del components["securitySchemes"]
    return described


def _parameter_schemas(getid: Schema) -> Iterable[Schema]:
    """The schemas of the parameters by name: of GET, and of the form of POST."""
    yield {parameter["name"]: parameter["schema"] for parameter in getid["get"]["parameters"]}
    (form,) = getid["post"]["requestBody"]["content"].values()
    yield form["schema"]["properties"]


def _restrict(mode: Schema, allowed: list[str]) -> None:
    if allowed:
        for limit in ("minLength", "maxLength", "pattern"):
            del mode[limit]
        mode["enum"] = allowed
        mode["examples"] = allowed[:1]


def _drop_status_page(paths: Schema, components: Schema) -> None:
    del paths["/status.json"], components["schemas"]["Status"]
    root = paths["/"]["get"]
    root["summary"] = "The service's name"
    root["description"] = "Nothing is asked of the database."
    del root["responses"]["200"]["content"]["text/html"]


def _drop_scheme(name: str, paths: Schema, components: Schema) -> None:
    """Remove a kind of token, from the operations that need it as well."""
    del components["securitySchemes"][name]
    for operations in paths.values():
        for operation in operations.values():
            if operation.get("security") == [{name: []}]:
                del operation["security"], operation["responses"]["401"]
