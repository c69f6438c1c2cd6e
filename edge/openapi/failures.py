"""Error answers as an OpenAPI document tells of them: each reason's status and body are asked of the endpoint's own
error style, so that what is described is what is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from edge.errors import ErrorStyle, Problem
from edge.openapi.headers import BUSY_HEADERS, REFUSED_HEADERS, references
from edge.openapi.reasons import REASONS
from schemas.errors import ERRORS

JSON = "application/json"

_TWO_RIDS = ("h5n2cpd3e2yekjvnjtdjczxc4i", "ck6m5kcd5m3gyzdtfhdjs7aneq")
_PARAMS = ("model", "messages")


class Failures:
    """Collects what the responses of `responses` refer to: a schema for each style, an example for each reason."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        self.examples: dict[str, Any] = {}
        self._styles: list[ErrorStyle] = []

    def responses(self, style: ErrorStyle, reasons: Iterable[str]) -> dict[str, Any]:
        """Responses by status, in the order of the statuses."""
        name = self.name_of(style)
        if name not in self.schemas:
            self.schemas[name] = schema_of_errors(style)
        by_status: dict[int, list[str]] = {}
        for reason in sorted(set(reasons)):
            by_status.setdefault(style.status(_problem(reason)), []).append(reason)
        return {str(status): self._response(style, name, by_status[status]) for status in sorted(by_status)}

    def name_of(self, style: ErrorStyle) -> str:
        """The schema's: that of the style's class, in the singular. Of several of one class, all but the first have a
        number."""
        base = type(style).__name__.removesuffix("s")
        alike = [known for known in self._styles if type(known) is type(style)]
        if style not in alike:
            self._styles.append(style)
            alike.append(style)
        number = alike.index(style) + 1
        return base if number == 1 else f"{base}{number}"

    def _response(self, style: ErrorStyle, name: str, reasons: list[str]) -> dict[str, Any]:
        rows = [ERRORS[reason] for reason in reasons]
        headers = dict(REFUSED_HEADERS)
        if any(row.retry_after for row in rows):
            headers |= BUSY_HEADERS
        examples = {}
        for reason in reasons:
            key = f"{name}.{reason}"
            body = msgspec.json.decode(style.body(_problem(reason)))
            self.examples[key] = {"summary": REASONS[reason], "value": body}
            examples[reason] = {"$ref": f"#/components/examples/{key}"}
        return {
            "description": " ".join(REASONS[reason] for reason in reasons),
            "headers": references(headers),
            "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": examples}},
        }


def schema_of_errors(style: ErrorStyle) -> dict[str, Any]:
    """The JSON Schema of all bodies a style can write: learned from one of each kind."""
    bodies = []
    for reason in sorted(ERRORS):
        bodies.append(style.body(_problem(reason)))
        for rid, param in zip(_TWO_RIDS, _PARAMS, strict=True):
            resume = f"/v1/requests/{rid}/stream"
            bodies.append(style.body(Problem(reason, REASONS[reason], param, resume, 2.0), rid))
    return _schema_of([msgspec.json.decode(body) for body in bodies])


def _problem(reason: str) -> Problem:
    return Problem(reason, REASONS[reason])


def _schema_of(values: list[Any]) -> dict[str, Any]:
    """What all of `values` have in common. One that never changes is a constant."""
    if all(isinstance(value, dict) for value in values):
        return _schema_of_objects(values)
    if len(values) > 1 and isinstance(values[0], str) and all(value == values[0] for value in values):
        return {"const": values[0]}
    types = sorted({_type_of(value) for value in values})
    if "object" in types:
        objects = [value for value in values if isinstance(value, dict)]
        return {"anyOf": [_schema_of_objects(objects), *({"type": one} for one in types if one != "object")]}
    return {"type": types[0] if len(types) == 1 else types}


def _schema_of_objects(objects: list[dict[str, Any]]) -> dict[str, Any]:
    names = sorted({name for one in objects for name in one})
    return {
        "type": "object",
        "properties": {name: _schema_of([one[name] for one in objects if name in one]) for name in names},
        "required": [name for name in names if all(name in one for one in objects)],
    }


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
