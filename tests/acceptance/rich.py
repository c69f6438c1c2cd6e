"""A chat with everything an answer can hold, as the official client puts its stream together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openai.types.chat.chat_completion import Choice

from bench.transcript import MODEL, client

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
]


@dataclass
class Heard:
    """One choice as it was streamed, or as it stands in a whole answer. Logprobs are those of its tokens."""

    role: str | None = None
    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    tokens: list[tuple[str, float, int]] = field(default_factory=list)
    finish_reason: str | None = None


def body_of(prompt: str, **fields: Any) -> dict[str, Any]:
    """The same request for both ways to read it; what is not OpenAI's is the simulator's business."""
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields}


def whole(url: str, prompt: str, **fields: Any) -> tuple[list[Heard], int]:
    """The choices, and the tokens that were charged for."""
    with client(url) as official:
        answer = official.chat.completions.create(**body_of(prompt, **fields))
    assert answer.usage is not None
    return [_heard_whole(choice) for choice in answer.choices], answer.usage.completion_tokens


def streamed(
    url: str, prompt: str, on_piece: Callable[[str, int], None] = lambda rid, pieces: None, **fields: Any
) -> tuple[list[Heard], int]:
    """Like `whole`; `on_piece(rid, pieces so far)` is called after each piece of any choice."""
    heard: dict[int, Heard] = {}
    pieces = tokens = 0
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with client(url) as official:
        for chunk in official.chat.completions.create(**body_of(prompt, **fields, **options)):
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
            for choice in chunk.choices:
                _hear(heard.setdefault(choice.index, Heard()), choice)
                pieces += 1
                on_piece(chunk.id.removeprefix("chatcmpl-"), pieces)
    return [heard[index] for index in sorted(heard)], tokens


def _hear(heard: Heard, choice: Any) -> None:
    delta = choice.delta
    assert not (heard.role and delta.role), "a choice says its role once"
    heard.role = heard.role or delta.role
    heard.content += delta.content or ""
    heard.reasoning += getattr(delta, "reasoning", None) or ""
    for piece in delta.tool_calls or []:
        if piece.index == len(heard.calls):
            assert piece.type == "function"
            heard.calls.append([piece.id, piece.function.name, ""])
        else:
            assert (piece.id, piece.function.name) == (None, None), "a call is named in its first piece"
        heard.calls[piece.index][2] += piece.function.arguments
    heard.tokens += _tokens(choice.logprobs)
    heard.finish_reason = heard.finish_reason or choice.finish_reason


def _heard_whole(choice: Choice) -> Heard:
    message: Any = choice.message
    return Heard(
        message.role,
        message.content or "",
        getattr(message, "reasoning", None) or "",
        [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls or []],
        _tokens(choice.logprobs),
        choice.finish_reason,
    )


def _tokens(logprobs: Any) -> list[tuple[str, float, int]]:
    told = logprobs.content if logprobs is not None else None
    return [(one.token, one.logprob, len(one.top_logprobs)) for one in told or []]
