"""Events of a response as its clients read them, held against the official client's own types."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from edge.responses.described import ResponseObject

# What the Open Responses schema wants in every object, beside the official client's fields.
OPEN_RESPONSES = {"presence_penalty", "frequency_penalty", "store"}

_MODELS: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
}


def events_in(stream: bytes) -> list[dict[str, Any]]:
    """The events of a whole stream, each valid and with the id of its number; the last line is not one of them."""
    *frames, done, nothing = stream.decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [event_of(frame) for frame in frames]


def event_of(frame: str) -> dict[str, Any]:
    *places, named, told = frame.split("\n")
    data: dict[str, Any] = json.loads(told.removeprefix("data: "))
    assert named == f"event: {data['type']}"
    number = data["sequence_number"]
    assert places in ([f"id: {number}-0"], [])
    assert bool(places) == (data["type"] not in ("response.failed", "error")), "what may change is told again"
    valid(_MODELS[data["type"]], data)
    if "response" in data:
        assert_whole_object(data["response"])
    return data


def assert_whole_object(shown: dict[str, Any]) -> None:
    """Valid, and with every field there is."""
    valid(Response, shown)
    msgspec.convert(shown, ResponseObject)
    assert set(Response.model_fields) - set(shown) == set()
    assert OPEN_RESPONSES - set(shown) == set()


def valid(model: type[BaseModel], data: dict[str, Any]) -> None:
    """Strict: a client's types are taken at their word."""
    model.model_validate_json(json.dumps(data), strict=True)


def output_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items that the deltas of a stream make."""
    items: list[dict[str, Any]] = []
    for event in events:
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == len(items)
                items.append(event["item"])
            case "response.content_part.added":
                items[event["output_index"]]["content"] = [event["part"]]
            case "response.output_text.delta" | "response.reasoning_text.delta":
                part = items[event["output_index"]]["content"][event["content_index"]]
                part["text"] += event["delta"]
                part.get("logprobs", []).extend(event.get("logprobs", []))
            case "response.function_call_arguments.delta":
                items[event["output_index"]]["arguments"] += event["delta"]
            case "response.output_text.done" | "response.reasoning_text.done":
                part = items[event["output_index"]]["content"][event["content_index"]]
                assert part["text"] == event["text"]
                # Those of tokens that brought no text of their own come last.
                part |= {"logprobs": event["logprobs"]} if "logprobs" in event else {}
            case "response.content_part.done":
                assert items[event["output_index"]]["content"] == [event["part"]]
            case "response.function_call_arguments.done":
                assert items[event["output_index"]]["arguments"] == event["arguments"]
            case "response.output_item.done":
                item = items[event["output_index"]]
                assert item | {"status": event["item"]["status"]} == event["item"]
                items[event["output_index"]] = event["item"]
            case _:
                pass
    return items
