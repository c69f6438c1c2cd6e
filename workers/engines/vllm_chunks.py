"""The chunks that vLLM's serving layer streams, taken apart: what its HTTP clients would read, as deltas of ours."""

from __future__ import annotations

import msgspec

from schemas.output import Delta, TokenLogprob, ToolPiece, Usage

DATA = "data: "
DONE = "data: [DONE]"


class StreamError(msgspec.Struct, frozen=True):
    """vLLM's error object: `code` is the HTTP status that its server answers."""

    message: str = ""
    type: str = ""
    code: int = 500


class Piece(msgspec.Struct, frozen=True):
    """What one chunk says of one choice. `finish_reason`: it was the choice's last one."""

    delta: Delta | None
    choice: int
    finish_reason: str | None
    stop_reason: str | int | None


class Chunk(msgspec.Struct, frozen=True):
    """One chunk of a stream."""

    pieces: list[Piece]
    usage: Usage | None
    error: StreamError | None


def chat_chunks(event: str) -> list[Chunk]:
    """The chunks of a chat in what the serving layer yielded at once."""
    return [_chat_chunk(_chat.decode(data)) for data in _payloads(event)]


def completion_chunks(event: str) -> list[Chunk]:
    """The same of a completion."""
    return [_completion_chunk(_completion.decode(data)) for data in _payloads(event)]


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Top(msgspec.Struct):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class _ChatLogprob(_Top):
    top_logprobs: list[_Top] = []


class _ChatLogprobs(msgspec.Struct):
    content: list[_ChatLogprob] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int
    id: str | None = None
    function: _Function | None = None


class _ChatDelta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _ChatChoice(msgspec.Struct):
    index: int
    delta: _ChatDelta
    logprobs: _ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class _ChatChunk(msgspec.Struct):
    choices: list[_ChatChoice] = []
    usage: _Usage | None = None
    error: StreamError | None = None


class _CompletionLogprobs(msgspec.Struct):
    text_offset: list[int] = []
    token_logprobs: list[float | None] = []
    tokens: list[str] = []
    top_logprobs: list[dict[str, float] | None] = []


class _CompletionChoice(msgspec.Struct):
    index: int
    text: str = ""
    logprobs: _CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class _CompletionChunk(msgspec.Struct):
    choices: list[_CompletionChoice] = []
    usage: _Usage | None = None
    error: StreamError | None = None


_chat = msgspec.json.Decoder(_ChatChunk)
_completion = msgspec.json.Decoder(_CompletionChunk)


def _payloads(event: str) -> list[str]:
    """JSON never holds a bare newline, so an event is its lines."""
    return [line[len(DATA) :] for line in event.split("\n") if line.startswith(DATA) and line != DONE]


def _chat_chunk(chunk: _ChatChunk) -> Chunk:
    return Chunk([_chat_piece(choice) for choice in chunk.choices], _usage(chunk.usage), chunk.error)


def _chat_piece(choice: _ChatChoice) -> Piece:
    said = choice.delta
    text, reasoning = said.content or "", said.reasoning or ""
    tools = [_tool_piece(call) for call in said.tool_calls or []]
    logprobs = [_chat_logprob(logprob) for logprob in (choice.logprobs and choice.logprobs.content) or []]
    delta = None
    if text or reasoning or tools or logprobs:
        delta = Delta(text, choice.index, reasoning, tools, logprobs)
    return Piece(delta, choice.index, choice.finish_reason, choice.stop_reason)


def _tool_piece(call: _ToolCall) -> ToolPiece:
    function = call.function or _Function()
    return ToolPiece(call.index, call.id or "", function.name or "", function.arguments or "")


def _chat_logprob(logprob: _ChatLogprob) -> TokenLogprob:
    top = [TokenLogprob(other.token, other.logprob, other.bytes) for other in logprob.top_logprobs]
    return TokenLogprob(logprob.token, logprob.logprob, logprob.bytes, top)


def _completion_chunk(chunk: _CompletionChunk) -> Chunk:
    return Chunk([_completion_piece(choice) for choice in chunk.choices], _usage(chunk.usage), chunk.error)


def _completion_piece(choice: _CompletionChoice) -> Piece:
    logprobs = [] if choice.logprobs is None else _completion_logprobs(choice.logprobs)
    delta = Delta(choice.text, choice.index, logprobs=logprobs) if choice.text or logprobs else None
    return Piece(delta, choice.index, choice.finish_reason, choice.stop_reason)


def _completion_logprobs(logprobs: _CompletionLogprobs) -> list[TokenLogprob]:
    rows = zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset, strict=True
    )
    return [
        TokenLogprob(
            token,
            logprob,
            top=[TokenLogprob(other, of_other) for other, of_other in (top or {}).items()],
            text_offset=text_offset,
        )
        for token, logprob, top, text_offset in rows
    ]


def _usage(usage: _Usage | None) -> Usage | None:
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens or 0,
        prompt.cached_tokens if prompt else None,
        completion.reasoning_tokens if completion else None,
    )
