"""The API's description as OpenAPI 3.1, and its rendering for people.

https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uniqueid import __version__
from uniqueid.errors import MAX_ID
from uniqueid.model import MAX_KEY_LENGTH, MIN_KEY_LENGTH
from uniqueid.web.parameters import MAX_MODE_LENGTH, MAX_NONCE_LENGTH

Schema = dict[str, Any]

ASSETS: Mapping[str, tuple[str, str]] = {
    "/docs/swagger-ui.css": ("swagger-ui.css", "text/css; charset=utf-8"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
}
"""By path: Swagger UI's file and content type."""


def asset(name: str) -> bytes | None:
    """A file of Swagger UI, from the package swagger-ui-py; None where that is not installed."""
    # Found, not imported: its own code is for frameworks and template engines.
    found = importlib.util.find_spec("swagger_ui")
    for place in (found.submodule_search_locations or ()) if found else ():
        file = Path(place) / "static" / name
        if file.is_file():
            return file.read_bytes()
    return None


def document(
    *,
    max_range: int = 1_000_000_000,
    allowed_modes: Iterable[str] = (),
    tokens: bool = False,
    status_tokens: bool = False,
    status_page: bool = True,
) -> Schema:
    """The description of a service with these settings."""
    read: Schema = {"security": [{"statusToken": []}]} if status_tokens else {}
    paths: Schema = {
        "/": {"get": _root(status_page)},
        "/getid": {
            "get": _getid(tokens, max_range, allowed_modes, post=False),
            "post": _getid(tokens, max_range, allowed_modes, post=True),
        },
        "/livez": {"get": _operation("livez", "Is the process there?", {"200": _LIVE})},
        **{
            f"/{name}": {
                "get": _operation(
                    name,
                    "Would a request for IDs be met?",
                    {"200": _json("Yes.", "Ready"), "503": _json("No.", "Ready")},
                    description="Each check with what is wrong, or `ok`. Nothing is allocated.",
                )
            }
            for name in ("readyz", "healthz")
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Prometheus' metrics",
                {
                    "200": _answer("In Prometheus' text format.", {"text/plain": _TEXT}),
                    **(_UNAUTHORIZED if status_tokens else {}),
                },
                **read,
            )
        },
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This description",
                {"200": _answer("OpenAPI 3.1.", {"application/json": {"type": "object"}})},
            )
        },
        "/docs": {
            "get": _operation(
                "docs",
                "This description, for people",
                {
                    "200": _answer("A page.", {"text/html": _TEXT}),
                    "404": _problem("The extra `docs` is not installed."),
                },
            )
        },
    }
    if status_page:
        paths["/status.json"] = {
            "get": _operation(
                "status",
                "The data of the status page",
                {
                    "200": _json("The service now, and its last minutes.", "Status"),
                    **(_UNAUTHORIZED if status_tokens else {}),
                },
                **read,
            )
        }
    schemes = {}
    if tokens:
        schemes["token"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of `auth_tokens_file`.",
        }
    if status_tokens:
        schemes["statusToken"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of `status_tokens_file`.",
        }
    components = {
        "schemas": _SCHEMAS if status_page else {k: v for k, v in _SCHEMAS.items() if k != "Status"}
    }
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Pacifica UniqueID",
            "version": __version__,
            "description": "Ranges of IDs, never the same ID twice for a mode. No answer may be"
            " cached, and every answer says so.",
            "license": {"name": "LGPL-3.0-or-later", "identifier": "LGPL-3.0-or-later"},
        },
        # Relative to this document, wherever a proxy has put it.
        "servers": [{"url": "./"}],
        "paths": paths,
        "components": {**components, **({"securitySchemes": schemes} if schemes else {})},
    }


def _operation(id: str, summary: str, responses: Schema, **more: Any) -> Schema:
    return {"operationId": id, "summary": summary, **more, "responses": responses}


def _answer(description: str, content: Mapping[str, Schema], **headers: Schema) -> Schema:
    return {
        "description": description,
        "headers": {"Cache-Control": _NEVER_CACHED, **headers},
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: str) -> Schema:
    return _answer(description, {"application/json": _ref(schema)})


def _problem(description: str, **headers: Schema) -> Schema:
    return _answer(description, {"application/problem+json": _ref("Problem")}, **headers)


def _root(status_page: bool) -> Schema:
    content = {"application/json": _ref("Message")}
    if status_page:
        content["text/html"] = _TEXT
    return _operation(
        "root",
        "The service's name" + (", or its status page" if status_page else ""),
        {"200": _answer("It serves.", content)},
        description="Nothing is asked of the database."
        + (" JSON, unless Accept prefers text/html." if status_page else ""),
    )


def _getid(tokens: bool, max_range: int, allowed_modes: Iterable[str], *, post: bool) -> Schema:
    modes = sorted(allowed_modes)
    mode: Schema = {"type": "string", "examples": modes[:1] or ["file"]}
    if modes:
        mode["enum"] = modes
    else:
        mode |= {
            "minLength": 1,
            "maxLength": MAX_MODE_LENGTH,
            # No control characters.
            "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
        }
    parameters: Schema = {
        "range": {
            "description": "How many IDs. 0 takes none, and answers -1 and -3 as ever.",
            "schema": {"type": "integer", "minimum": 0, "maximum": max_range, "examples": [10]},
        },
        "mode": {"description": "Of which counter; the first use makes it.", "schema": mode},
        "nonce": {
            "description": "Comes back in the answer, as proof that it was made for this request;"
            " the header X-Request-Nonce does the same, and one of the two is enough.",
            "schema": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_NONCE_LENGTH,
                "pattern": r"^[\u0020-\u007e]+$",
            },
        },
    }
    needed = ["range", "mode"]
    more: Schema = {"security": [{"token": []}]} if tokens else {}
    more["parameters"] = [_KEY]
    if post:
        more["requestBody"] = {
            "required": True,
            "content": {
                "application/x-www-form-urlencoded": {
                    "schema": {
                        "type": "object",
                        "required": needed,
                        "properties": {
                            name: {**facts["schema"], "description": facts["description"]}
                            for name, facts in parameters.items()
                        },
                    }
                }
            },
        }
    else:
        more["parameters"] += [
            {"name": name, "in": "query", "required": name in needed, **facts}
            for name, facts in parameters.items()
        ]
        # Exploded, so each of its members is a parameter of its own.
        more["parameters"].append(
            {
                "name": "others",
                "in": "query",
                "description": "All other parameters are ignored.",
                "style": "form",
                "explode": True,
                "schema": {"type": "object", "additionalProperties": True},
            }
        )
    responses = {
        "200": _answer(
            "These IDs are the caller's alone, and on the database's disk.",
            {"application/json": _ref("Range")},
            **{
                "Idempotency-Replayed": {
                    "description": "The same was answered before, to the same key.",
                    "schema": {"const": "true"},
                }
            },
        ),
        "400": _problem("A parameter is missing, repeated or out of bounds."),
        **(_UNAUTHORIZED if tokens else {}),
        "409": _problem(
            "The counter is at its end, there are as many modes as may be, or an earlier request"
            " with the key is not answered yet.",
            **_RETRY_AFTER,
        ),
        **(
            {
                "411": _problem("The body came without a Content-Length."),
                "413": _problem("The body is too long."),
                "415": _problem("The body is no form."),
            }
            if post
            else {}
        ),
        "414": _problem("The query is too long."),
        "422": _problem("The key is that of a request with another range or mode."),
        "500": _problem("A mistake in the service; its log has it under the `reference`."),
        "501": _problem("There is a key, and dbsync has not made the table for it yet."),
        "503": _problem(
            "Not now. IDs may have been taken from the counter; nobody gets them.", **_RETRY_AFTER
        ),
    }
    return _operation(
        "takeIds" if post else "takeIdsByGet",
        "Take a range of IDs" + (": the way for new clients" if post else ""),
        responses,
        description="Every call takes new IDs, also one that is repeated without an"
        " Idempotency-Key."
        + (
            " The parameters may stand in the query as well, but none in both."
            if post
            else " GET changes something here, against the rule, because every consumer relies on"
            " it; no proxy repeats a POST by itself."
        ),
        **more,
    )


_TEXT: Schema = {"type": "string"}
_RETRY_AFTER: Schema = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Stands for this request: sent again with the same range and mode, it gets the"
    " same IDs. New for each new request, and random. Also in quotes, as a string of RFC 9651.",
    "schema": {
        "type": "string",
        "minLength": MIN_KEY_LENGTH,
        "maxLength": MAX_KEY_LENGTH,
        # Without quotes around it, which leaves no place for blanks, quotes and commas.
        "pattern": r"^[!#-+\--~]+$",
    },
}
_NEVER_CACHED: Schema = {
    "description": "Forbids caching; there are more such headers.",
    "required": True,
    "schema": {"const": "no-store, no-cache, private, max-age=0"},
}
_NUMBERS: Schema = {"type": "array", "items": {"type": ["number", "null"]}}
_CHECKS: Schema = {
    "type": "object",
    "description": "By name: ok, or what is wrong.",
    "additionalProperties": {"type": "string"},
}
_LIVE = _answer(
    "Yes.",
    {
        "application/json": {
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"const": "ok"}},
        }
    },
)


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


_SCHEMAS: Schema = {
    "Message": _object(message={"const": "Pacifica UniqueID Up and Running"}),
    "Range": {
        "type": "object",
        "required": ["startIndex", "endIndex"],
        "properties": {
            "startIndex": {
                "type": "integer",
                "minimum": -1,
                "maximum": MAX_ID,
                "description": "The first ID; -1 for a range of 0. Above 2^53 a parser that reads"
                " numbers as doubles, as JavaScript's JSON.parse does, changes its last digits.",
            },
            "endIndex": {
                "type": "integer",
                "minimum": -3,
                "maximum": MAX_ID,
                "description": "The last ID, included; -3 for a range of 0. As for startIndex, a"
                " parser has to read whole numbers of 63 bits.",
            },
            "nonce": {"type": "string", "description": "The request's, if it had one there."},
        },
        "additionalProperties": False,
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457, and `message` with the old service's name for the detail.",
        "required": ["type", "title", "status", "detail", "message"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "message": {"type": "string"},
            "errors": {
                "type": "array",
                "items": _object(
                    parameter=_TEXT, value={"type": ["string", "null"]}, allowed=_TEXT
                ),
            },
            "reference": {"type": "string"},
        },
    },
    "Ready": _object(status={"enum": ["ok", "unavailable"]}, checks=_CHECKS),
    "Status": _object(
        instance=_TEXT,
        version=_TEXT,
        time={"type": "string", "format": "date-time"},
        started={"type": "string", "format": "date-time"},
        uptime_seconds={"type": "integer"},
        database=_object(kind=_TEXT, host=_TEXT),
        ready={"type": "boolean"},
        checks=_CHECKS,
        tokens_required={"type": "boolean"},
        durability_problems={
            "type": "array",
            "items": _object(variable=_TEXT, value=_TEXT, needed=_TEXT, remedy=_TEXT),
            "description": "Variables with which the database server can lose a committed"
            " transaction.",
        },
        waiting={"type": "integer"},
        reconnects={"type": "integer"},
        regressions={"type": "integer"},
        counters_total={"type": "integer"},
        counters={
            "type": "array",
            "items": _object(
                mode=_TEXT,
                next_id={
                    "type": "string",
                    "pattern": "^[0-9]+$",
                    "description": "In digits: not every program has whole numbers of 63 bits.",
                },
                ids={"type": "integer"},
                allocations={"type": "integer"},
                rate={"type": "number"},
                used={"type": "number", "minimum": 0, "maximum": 1},
            ),
        },
        history=_object(
            time=_NUMBERS,
            requests=_NUMBERS,
            ids=_NUMBERS,
            p50=_NUMBERS,
            p95=_NUMBERS,
            p99=_NUMBERS,
            batch=_NUMBERS,
        ),
    ),
}
_UNAUTHORIZED: Schema = {
    "401": _problem(
        "A token is needed.", **{"WWW-Authenticate": {"schema": _TEXT, "required": True}}
    )
}
