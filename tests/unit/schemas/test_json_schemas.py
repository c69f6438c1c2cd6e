"""Other languages read our messages by their JSON Schemas."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec

from schemas.__main__ import json_schemas
from schemas.output import CtlRecord, Delta, End, Lease, Tok, encode


def test_every_struct_of_a_message_is_described() -> None:
    document = json_schemas()
    assert document["messages"]["tok record"] == {"$ref": "#/$defs/Tok"}
    tags = [one["$ref"].rpartition("/")[2] for one in document["messages"]["ctl record"]["anyOf"]]
    assert tags == ["Lease", "Failed", "Handoff", "End"]
    assert document["$defs"]["Lease"]["properties"]["t"] == {"enum": ["lease"]}
    assert document["$defs"]["Tok"]["required"] == ["lease", "off", "ids"]


def test_what_is_written_has_no_field_that_the_schema_lacks() -> None:
    document = json_schemas()
    records: list[CtlRecord | Tok] = [
        Tok(1, 0, [1], [Delta("a")]),
        End(status="ok", n=1),
        Lease("n", "w", 1, "first"),
    ]
    for record in records:
        written = msgspec.json.decode(encode(record))
        assert written.keys() <= document["$defs"][type(record).__name__]["properties"].keys()


def test_they_can_be_printed() -> None:
    printed = subprocess.run([sys.executable, "-m", "schemas"], capture_output=True, check=True)
    assert json.loads(printed.stdout) == json_schemas()
