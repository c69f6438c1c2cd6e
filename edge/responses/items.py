"""Items of a conversation: as a chat's messages, which engines speak, and as they are shown to the client. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from edge.errors import Problem

Item = dict[str, Any]
ChatMessage = dict[str, Any]

TEXTS = ("input_text", "output_text", "text")
SKIPPED = ("reasoning",)
"""Thoughts of earlier turns: chat templates leave them out."""


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: str | None = None


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


class _Call(msgspec.Struct):
    call_id: str
    name: str
    arguments: str


class _Result(msgspec.Struct):
    call_id: str
    output: str | list[dict[str, Any]]


class _Fault(NamedTuple):
    """What is wrong, and where in the item."""

    message: str
    where: str = ""


def items_of(given: str | Sequence[Item]) -> list[Item]:
    """The items of `input`; a text is a message of the user's."""
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given)


def messages_of(items: Sequence[Item], field: str = "input") -> list[ChatMessage] | Problem:
    """The messages of a chat that say the same; `field` is where the items stand.

    Calls are a part of the message before them if that is the assistant's, as it was when they were made.
    """
    messages: list[ChatMessage] = []
    for index, item in enumerate(items):
        try:
            message = _message_of(item)
        except msgspec.ValidationError as error:
            message = _Fault(f"invalid item: {error}")
        if isinstance(message, _Fault):
            return Problem("bad_request", message.message, f"{field}[{index}]{message.where}")
        if message is None:
            continue
        if "tool_calls" in message and messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
        else:
            messages.append(message)
    return messages


def shown_items(items: Sequence[Item], rid: str) -> list[Item]:
    """Items of `input` as the list of them shows them: each has an id, and all fields that its type has.

    They have been found to be what `messages_of` takes.
    """
    return [_shown(item, f"{rid}_in{index}") for index, item in enumerate(items)]


def _message_of(item: Item) -> ChatMessage | _Fault | None:
    match item.get("type", "message"):
        case "message":
            message = msgspec.convert(item, _Message)
            content = _content_of(message.content, ".content", plain=message.role == "assistant")
            # Chat templates know one word for whoever stands above the user.
            role = "system" if message.role == "developer" else message.role
            return content if isinstance(content, _Fault) else {"role": role, "content": content}
        case "function_call":
            call = msgspec.convert(item, _Call)
            function = {"name": call.name, "arguments": call.arguments}
            calls = [{"id": call.call_id, "type": "function", "function": function}]
            return {"role": "assistant", "content": None, "tool_calls": calls}
        case "function_call_output":
            result = msgspec.convert(item, _Result)
            content = _content_of(result.output, ".output")
            if isinstance(content, _Fault):
                return content
            return {"role": "tool", "tool_call_id": result.call_id, "content": content}
        case kind if kind in SKIPPED:
            return None
        case kind:
            return _Fault(
                f"items of type {str(kind)[:64]!r} are not supported: expected message, function_call, "
                "function_call_output or reasoning",
                ".type",
            )


def _content_of(
    content: str | list[dict[str, Any]], where: str, *, plain: bool = False
) -> str | list[dict[str, Any]] | _Fault:
    """A text, or parts where there is more. `plain`: templates expect nothing but a text here."""
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for index, given in enumerate(content):
        part = _part_of(msgspec.convert(given, _Part), f"{where}[{index}]")
        if isinstance(part, _Fault):
            return part
        parts.append(part)
    if len(parts) == 1 or plain:
        is_text = all(part["type"] == "text" for part in parts)
        return "".join([part["text"] for part in parts]) if is_text else parts
    return parts


def _part_of(part: _Part, where: str) -> dict[str, Any] | _Fault:
    if part.type in TEXTS:
        return {"type": "text", "text": part.text}
    if part.type == "refusal":
        return {"type": "text", "text": part.refusal}
    if part.type == "input_image":
        if part.image_url is None:
            return _Fault("an image must be given by its image_url: files are not kept here", where)
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
    return _Fault(
        f"parts of type {part.type[:64]!r} are not supported: expected input_text, input_image or output_text",
        f"{where}.type",
    )


def _shown(given: Item, name: str) -> Item:
    item = {key: value for key, value in given.items() if value is not None}
    kind = item.get("type", "message")
    if kind == "function_call":
        return {"id": f"fc_{name}", "status": "completed", **item}
    if kind == "function_call_output":
        return {"id": f"fco_{name}", "status": "completed", **item}
    if kind != "message":
        return {"id": f"rs_{name}", "summary": [], **item}
    content = item["content"]
    if isinstance(content, str):
        is_output = item["role"] == "assistant"
        text = {"type": "output_text", "annotations": []} if is_output else {"type": "input_text"}
        content = [{**text, "text": content}]
    shown = [_shown_part(part) for part in content]
    return {"id": f"msg_{name}", "type": "message", "status": "completed", **item, "content": shown}


def _shown_part(part: dict[str, Any]) -> dict[str, Any]:
    match part["type"]:
        case "output_text":
            return {"annotations": [], **part}
        case "input_image":
            return {"detail": "auto", "file_id": None, **part}
        case _:
            return part
