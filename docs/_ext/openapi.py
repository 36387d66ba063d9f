"""The directive `openapi`: renders the operations and schemas of an OpenAPI document."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words: its type and bounds."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    words = schema.get("type", "any value")
    words = " or ".join(words) if isinstance(words, list) else words
    if "items" in schema:
        words += f" of {_type(schema['items'])}"
    if "pattern" in schema and "maxLength" not in schema:
        words += f", `{schema['pattern']}`".replace("|", "\\|")
    for least, most, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
    ):
        if most in schema:
            words += f", {schema.get(least, 0)} to {schema[most]}{unit}"
        elif least in schema:
            words += f", at least {schema[least]}{unit}"
    return words


def _table(*rows: tuple[str, ...]) -> Iterator[str]:
    head, *body = rows
    yield ""
    for row in (head, ("---",) * len(head), *body):
        yield "| " + " | ".join(" ".join(cell.split()) for cell in row) + " |"
    yield ""


def _properties(schema: dict[str, Any], where: str) -> Iterator[tuple[str, ...]]:
    for name, property_ in schema.get("properties", {}).items():
        required = "yes" if name in schema.get("required", ()) else "no"
        description = property_.get("description", "")
        yield (f"`{name}`", *([where] if where else []), _type(property_), required, description)


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {method.upper()} `{path}`"
    yield ""
    yield f"**{operation['summary'].rstrip('.')}.** {operation.get('description', '')}"
    rows = []
    for parameter in operation.get("parameters", ()):
        rows.append(
            (
                f"`{parameter['name']}`",
                parameter["in"],
                _type(parameter["schema"]),
                "yes" if parameter.get("required") else "no",
                parameter.get("description", ""),
            )
        )
    for content in operation.get("requestBody", {}).get("content", {}).values():
        rows += _properties(content["schema"], "form")
    if rows:
        yield from _table(("Parameter", "In", "Type", "Required", "Meaning"), *rows)
    responses = []
    for status, response in operation["responses"].items():
        headers = [name for name in response.get("headers", {}) if name != "Cache-Control"]
        bodies = [
            f"`{kind}`: {_type(content.get('schema', {}))}"
            for kind, content in response.get("content", {}).items()
        ]
        named = ", ".join(f"`{name}`" for name in headers)
        responses.append((status, response["description"], ", ".join(bodies), named))
    yield from _table(("Status", "Meaning", "Body", "Headers"), *responses)


def render(document: dict[str, Any]) -> str:
    """The document as Markdown: a section for each operation and each schema."""
    lines: list[str] = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            lines += _operation(path, method, operation)
    lines += ["## Schemas", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name}", "", schema.get("description", "")]
        rows = list(_properties(schema, ""))
        if rows:
            lines += _table(("Member", "Type", "Always present", "Meaning"), *rows)
        else:
            lines += ["", f"Type: {_type(schema)}.", ""]
    return "\n".join(lines)


class OpenAPI(SphinxDirective):
    """`openapi` with the path of a document, relative to the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path.resolve()))
        text = render(json.loads(path.read_text(encoding="utf-8")))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("openapi", OpenAPI)
    return {"parallel_read_safe": True}
