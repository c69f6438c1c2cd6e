"""The API's document: valid, on disk as it is made, and complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from schemathesis.specs.openapi.definitions import OPENAPI_31

from edge.endpoint import Endpoint
from edge.openapi.__main__ import described, table
from edge.openapi.document import document, problems_of
from edge.openapi.failures import schema_of_errors
from edge.openapi.pages import as_text
from edge.openapi.reasons import REASONS
from schemas.errors import ERRORS

ON_DISK = Path(__file__).parents[3] / "docs" / "openapi.json"
DOCUMENT = described()


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(child)


def test_the_file_is_current() -> None:
    assert ON_DISK.read_text(encoding="utf-8") == as_text(DOCUMENT), "make docs"


def test_it_is_openapi() -> None:
    jsonschema.validate(DOCUMENT, OPENAPI_31)


def test_what_it_refers_to_is_there() -> None:
    dangling = []
    for part in parts(DOCUMENT):
        if not isinstance(ref := part.get("$ref"), str):
            continue
        found: Any = DOCUMENT
        for name in ref.removeprefix("#/").split("/"):
            found = found.get(name) if isinstance(found, dict) else None
        if found is None:
            dangling.append(ref)
    assert not dangling


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [part["operationId"] for part in parts(DOCUMENT["paths"]) if "responses" in part]
    assert len(set(names)) == len(names) > len(table())


def test_every_endpoint_says_what_it_gives() -> None:
    assert not [one.path for one in table() if one.gives is None and not one.streams]


def test_every_reason_has_a_sentence_and_no_endpoint_invents_one() -> None:
    assert REASONS.keys() == ERRORS.keys()
    told = {reason for one in table() for reason in problems_of(one)}
    assert ERRORS.keys() - told == {"method_not_allowed"}, "which is for methods that the document has not"
    assert not told - ERRORS.keys()


def test_examples_of_errors_are_what_their_schemas_say() -> None:
    bodies = DOCUMENT["components"]["examples"]
    assert bodies
    for key, example in bodies.items():
        schema = DOCUMENT["components"]["schemas"][key.partition(".")[0]]
        jsonschema.validate(example["value"], schema)


def test_a_style_is_described_by_what_it_writes() -> None:
    class Terse:
        def status(self, problem: Any) -> int:
            return 418

        def body(self, problem: Any, rid: str | None = None) -> bytes:
            told = {"kind": "error", "of": rid, "code": problem.row.status}
            return json.dumps({"error": told if rid else problem.reason}).encode()

    async def handle(_call: Any) -> Any:
        raise AssertionError

    assert schema_of_errors(Terse())["properties"]["error"] == {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "code": {"type": "integer"},
                    "kind": {"const": "error"},
                    "of": {"type": "string"},
                },
                "required": ["code", "kind", "of"],
            },
            {"type": "string"},
        ]
    }
    row = Endpoint("GET", "/v1/tea/{pot:path}", handle, "Tea", gives=str, errors=Terse())
    operation = document([row])["paths"]["/v1/tea/{pot}"]["get"]
    assert operation["responses"].keys() == {"200", "418"}, "each reason has the status of its style"
