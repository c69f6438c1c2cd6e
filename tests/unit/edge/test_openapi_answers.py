"""What the shapes write is what the document says they write, with no field that it has no word for."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from edge.dialect import Elapsed, Shape
from edge.openai_chat import ChatShape
from edge.openai_completions import CompletionShape
from edge.openai_embeddings import EmbeddingShape
from edge.openapi.__main__ import described
from edge.relay import Tokens
from schemas.choices import Choice, add_deltas
from schemas.output import Delta, End, TokenLogprob, ToolPiece, Usage

DOCUMENT = described()
LIKELY = TokenLogprob("so", -0.5, [115, 111], [TokenLogprob("so", -0.5), TokenLogprob("no", None)])
FIRST = TokenLogprob("é", None)
USAGE = Usage(prompt_tokens=5, completion_tokens=9, cached_tokens=4, reasoning_tokens=2)
END = End(
    status="ok",
    n=9,
    usage=USAGE,
    finish_reasons=["stop", "tool_calls", "length"],
    stop_reasons=[7, None, "x"],
)
BARE_END = End(status="ok", n=2)
TEXT = [Delta("one"), Delta(" two")]
RICH = [
    Delta("", 0, "hm"),
    Delta("so", logprobs=[FIRST, LIKELY]),
    Delta("", 1, tools=[ToolPiece(0, "call_1", "weather", "")]),
    Delta("", 1, tools=[ToolPiece(0, arguments="{}")]),
]


def strict(node: Any) -> Any:
    """A schema that takes no field it does not name."""
    if isinstance(node, list):
        return [strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    closed = {name: strict(one) for name, one in node.items()}
    return {"additionalProperties": False, **closed} if "properties" in node else closed


def check(name: str, value: Any) -> None:
    schemas = strict(DOCUMENT["components"]["schemas"])
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    jsonschema.validate(value, schema)


@pytest.mark.parametrize(
    ("shape", "whole", "chunk"),
    [(ChatShape, "ChatCompletion", "ChatChunk"), (CompletionShape, "TextCompletion", "TextChunk")],
)
@pytest.mark.parametrize(("deltas", "end"), [(TEXT, BARE_END), (RICH, END), ([], BARE_END)])
def test_generated_output(shape: Any, whole: str, chunk: str, deltas: list[Delta], end: End) -> None:
    choices: list[Choice] = []
    add_deltas(choices, deltas)
    check(whole, json.loads(new(shape).whole(choices, end, 9)))
    streaming = new(shape)
    stream = (
        streaming.opening()
        + streaming.tokens(Tokens(9, deltas, 0))
        + streaming.ending(end, 9, Elapsed(0.5, 2.0))
    )
    lines = [line for line in stream.decode().split("\n") if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    for line in lines:
        check(chunk, json.loads(line.removeprefix("data: ")))


def test_embeddings() -> None:
    check("EmbeddingList", json.loads(new(EmbeddingShape).whole([], BARE_END, 0)))


def test_an_answer_with_another_field_would_be_noticed() -> None:
    answer = json.loads(new(ChatShape).whole([], BARE_END, 0))
    with pytest.raises(jsonschema.ValidationError):
        check("ChatCompletion", {**answer, "mood": "good"})


def new(shape: Any) -> Shape:
    made: Shape = shape("a" * 26, "Test/Model", 7, include_usage=True)
    return made
