"""From a response's body to the chat that an engine is asked for, and to what is told of the body later. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from edge.dialect import Asked
from edge.errors import Problem
from edge.openai_bodies import decode_chat
from edge.responses.body import FunctionTool, ResponseBody, TextFormat, decode_response
from edge.responses.items import ChatMessage, items_of, messages_of
from edge.responses.record import NOTHING_ASKED

_encode = msgspec.json.Encoder().encode


class Translated(NamedTuple):
    """`asked` is the chat; `echo` the fields that every object of the response repeats; `items` its own input."""

    asked: Asked
    echo: dict[str, Any]
    items: list[dict[str, Any]]


def read_response(data: bytes) -> Asked | Problem:
    """A body that goes on from nothing before it."""
    decoded = decode_response(data)
    if isinstance(decoded, Problem):
        return decoded
    body, rest = decoded
    if body.previous_response_id is not None:
        return Problem("bad_request", "previous_response_id cannot be followed here", "previous_response_id")
    translated = translate(body, rest, [])
    return translated if isinstance(translated, Problem) else translated.asked


def translate(
    body: ResponseBody, rest: dict[str, msgspec.Raw], history: Sequence[ChatMessage]
) -> Translated | Problem:
    """`rest`: fields that go to the engine unread. `history`: what was said before, without its instructions."""
    assert body.input is not None, "a body is decoded before it is translated"
    items = items_of(body.input)
    messages = messages_of(items)
    if isinstance(messages, Problem):
        return messages
    tools = _tools(body)
    if isinstance(tools, Problem):
        return tools
    chosen = _tool_choice(body, tools)
    if isinstance(chosen, Problem):
        return chosen
    text_format = _response_format(body)
    if isinstance(text_format, Problem):
        return text_format
    told = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    everything = [*told, *history, *messages]
    if not everything:
        return Problem("bad_request", "input must not be empty", "input")
    chat: dict[str, Any] = {**rest, "messages": everything, **chosen, **text_format, **_options(body)}
    try:
        raw = _encode(chat)
    except RecursionError:
        return Problem("bad_request", "the body is nested too deeply")
    chat_body = decode_chat(raw)
    if isinstance(chat_body, Problem):
        return chat_body
    return Translated(Asked(chat_body, raw), _echo(body, tools), items)


def _options(body: ResponseBody) -> dict[str, Any]:
    """The fields that only change their names; what the client left out is left out."""
    options = {
        "model": body.model,
        "stream": body.stream or None,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        "verbosity": body.text.verbosity if body.text else None,
        "logprobs": body.wants_logprobs or None,
        "top_logprobs": (body.top_logprobs or 0) if body.wants_logprobs else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _tools(body: ResponseBody) -> list[FunctionTool] | Problem:
    tools: list[FunctionTool] = []
    for index, given in enumerate(body.tools or []):
        kind = given.get("type")
        if kind != "function":
            return Problem(
                "bad_request",
                f"tools of type {str(kind)[:64]!r} are not supported: only functions of the client's own are",
                f"tools[{index}].type",
            )
        try:
            tools.append(msgspec.convert(given, FunctionTool))
        except msgspec.ValidationError as error:
            return Problem("bad_request", f"invalid tool: {error}", f"tools[{index}]")
    return tools


def _tool_choice(body: ResponseBody, tools: list[FunctionTool]) -> dict[str, Any] | Problem:
    """The chat's fields about tools."""
    choice: Any = body.tool_choice
    if isinstance(choice, dict):
        names = {tool.name for tool in tools}
        wanted = [choice] if choice.get("type") == "function" else choice.get("tools")
        if choice.get("type") not in ("function", "allowed_tools") or not _name_some(wanted, names):
            return Problem(
                "bad_request",
                "tool_choice must be none, auto, required, one of the functions in tools, or some of them as "
                "allowed_tools",
                "tool_choice",
            )
        assert wanted is not None
        if choice["type"] == "function":
            choice = {"type": "function", "function": {"name": choice["name"]}}
        else:
            allowed = {one["name"] for one in wanted}
            tools = [tool for tool in tools if tool.name in allowed]
            choice = choice.get("mode", "auto")
    if not tools:
        if choice == "required":
            return Problem("bad_request", "tool_choice is required, but there are no tools", "tool_choice")
        return {}
    fields: dict[str, Any] = {"tools": [_chat_tool(tool) for tool in tools]}
    if choice is not None:
        fields["tool_choice"] = choice
    if body.parallel_tool_calls is not None:
        fields["parallel_tool_calls"] = body.parallel_tool_calls
    return fields


def _name_some(wanted: Any, names: set[str]) -> bool:
    """Whether all that is wanted are functions that there are, and at least one is."""
    return (
        isinstance(wanted, list)
        and bool(wanted)
        and all(isinstance(one, dict) and _is_in(one.get("name"), names) for one in wanted)
    )


def _is_in(name: Any, names: set[str]) -> bool:
    return isinstance(name, str) and name in names


def _chat_tool(tool: FunctionTool) -> dict[str, Any]:
    fields = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    function = {name: value for name, value in fields.items() if value is not None}
    return {"type": "function", "function": function}


def _response_format(body: ResponseBody) -> dict[str, Any] | Problem:
    wanted = body.text.format if body.text else None
    if wanted is None or wanted.type == "text":
        return {}
    if wanted.type == "json_object":
        return {"response_format": {"type": "json_object"}}
    if wanted.name is None or wanted.schema is None:
        return Problem("bad_request", "a json_schema needs a name and a schema", "text.format")
    fields = {
        "name": wanted.name,
        "description": wanted.description,
        "schema": wanted.schema,
        "strict": wanted.strict,
    }
    schema = {name: value for name, value in fields.items() if value is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _echo(body: ResponseBody, tools: list[FunctionTool]) -> dict[str, Any]:
    """What the response says of its request, with the defaults of OpenAI's API."""
    given = {
        name: getattr(body, name)
        for name in NOTHING_ASKED
        if name in body.__struct_fields__ and getattr(body, name) is not None
    }
    given.pop("service_tier", None)  # what is told there is the tier that was used, and there is one
    given["tools"] = [msgspec.to_builtins(tool) for tool in tools]
    if body.reasoning is not None:
        given["reasoning"] = msgspec.to_builtins(body.reasoning)
    if body.text is not None:
        verbosity = {} if body.text.verbosity is None else {"verbosity": body.text.verbosity}
        given["text"] = {"format": _shown_format(body.text.format), **verbosity}
    return {**NOTHING_ASKED, **given}


def _shown_format(given: TextFormat | None) -> dict[str, Any]:
    if given is None or given.type != "json_schema":
        return {"type": "text" if given is None else given.type}
    return {**msgspec.to_builtins(given), "strict": bool(given.strict)}
