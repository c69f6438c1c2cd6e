"""What an OpenAI-compatible server streams, as tokens and deltas. Pure.

Servers differ in what they leave out, send as null or add: whatever is not named here is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from schemas.output import Delta, TokenLogprob, ToolPiece, Usage
from schemas.requests import CHOICES_MAX

TOOLS_MAX = 1024
"""Calls of one choice: far more than any model asks for, and a bound on what a bad index makes us keep."""

DONE = b"[DONE]"

_T = TypeVar("_T")


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: Annotated[int, msgspec.Meta(ge=0, lt=TOOLS_MAX)] | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprob(msgspec.Struct):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[_Logprob] | None = None


class _Logprobs(msgspec.Struct):
    """A chat's are a list in `content`; a completion's are lists side by side, though not those of every server."""

    content: list[_Logprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] | None = None


class ChunkChoice(msgspec.Struct):
    """One choice of a chunk. `text` is a completion's, `delta` a chat's; `token_ids` and `stop_reason` are vLLM's."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=CHOICES_MAX)] = 0
    delta: _Delta | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class ChunkUsage(msgspec.Struct):
    """What was used, as far as it is told."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class Chunk(msgspec.Struct):
    """The data of one event. `error` is what a server says that fails after its answer has begun; `prompt_token_ids`
    are vLLM's, in the first one."""

    choices: list[ChunkChoice] | None = None
    usage: ChunkUsage | None = None
    error: Any = None
    prompt_token_ids: list[int] | None = None


class Piece(NamedTuple):
    """What one choice got by one chunk: its tokens, and what they released, if anything."""

    ids: list[int]
    delta: Delta | None


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Raises msgspec.DecodeError (and its child ValidationError) or UnicodeDecodeError for anything else."""


def piece_of(choice: ChunkChoice) -> Piece:
    """Its tokens: by their ids where these are told, else 0 for each piece that has any content."""
    said = choice.delta
    text, reasoning, tools = choice.text or "", "", []
    if said is not None:
        text += (said.content or "") + (said.refusal or "")
        # Some servers in transition send the same words under both names.
        reasoning = said.reasoning or said.reasoning_content or ""
        tools = [_tool_piece(call, at) for at, call in enumerate(said.tool_calls or [])]
    logprobs = _logprobs(choice.logprobs) if choice.logprobs is not None else []
    is_empty = not (text or reasoning or tools or logprobs)
    delta = None if is_empty else Delta(text, choice.index, reasoning, tools, logprobs)
    if choice.token_ids is not None:
        return Piece(choice.token_ids, delta)
    return Piece([] if is_empty else [0], delta)


def usage_of(told: ChunkUsage | None, counted: int) -> Usage:
    """The whole request's; `counted` tokens came."""
    if told is None:
        return Usage(0, counted)
    prompt, completion = told.prompt_tokens_details, told.completion_tokens_details
    return Usage(
        told.prompt_tokens or 0,
        counted if told.completion_tokens is None else told.completion_tokens,
        prompt.cached_tokens if prompt else None,
        completion.reasoning_tokens if completion else None,
    )


def _tool_piece(call: _Call, at: int) -> ToolPiece:
    function = call.function or _Function()
    index = at if call.index is None else call.index
    return ToolPiece(index, call.id or "", function.name or "", function.arguments or "")


def _logprobs(told: _Logprobs) -> list[TokenLogprob]:
    if told.content is not None:
        return [_logprob(token) for token in told.content]
    tokens, count = told.tokens or [], len(told.tokens or [])
    values = _padded(told.token_logprobs, count)
    tops = _padded(told.top_logprobs, count)
    offsets = _padded(told.text_offset, count)
    return [
        TokenLogprob(
            token, values[at], None, [TokenLogprob(*one) for one in (tops[at] or {}).items()], offsets[at]
        )
        for at, token in enumerate(tokens)
    ]


def _logprob(told: _Logprob) -> TokenLogprob:
    top = [TokenLogprob(one.token, one.logprob, one.bytes) for one in told.top_logprobs or []]
    return TokenLogprob(told.token, told.logprob, told.bytes, top)


def _padded(values: Sequence[_T] | None, count: int) -> list[_T | None]:
    told: list[_T | None] = list(values or [])
    return told[:count] + [None] * (count - len(told))
