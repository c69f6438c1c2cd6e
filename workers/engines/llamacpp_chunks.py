"""What llama.cpp's server says while a request runs: chunks in OpenAI's shape. Pure."""

from __future__ import annotations

import msgspec

from schemas.output import Delta, TokenLogprob, ToolPiece, Usage
from workers.engines.base import FailReason


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, frozen=True):
    index: int = 0
    id: str | None = None
    function: _Function = _Function()


class _Logprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[_Logprob] = []


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[_Logprob] | None = None


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] = []


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    text: str | None = None
    delta: _Message = _Message()
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Cached(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _Cached = _Cached()


class Fault(msgspec.Struct, frozen=True):
    """Why a request was not run, or not to its end."""

    message: str
    code: int = 500
    type: str = ""

    @property
    def reason(self) -> FailReason:
        """Whose fault it is. What this server cannot do (501) is nothing another attempt would change."""
        if self.type == "exceed_context_size_error":
            return "context_length"
        return "bad_request" if self.code in (400, 404, 422, 501) else "engine_error"


class Chunk(msgspec.Struct, frozen=True):
    """One message. Most have one choice with a piece of its output."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Fault | None = None

    def deltas(self, *, shows_top: bool) -> list[Delta]:
        """What is put out, of each choice that has something."""
        found = [_delta(choice, shows_top) for choice in self.choices]
        return [d for d in found if d.text or d.reasoning or d.tools or d.logprobs]


_decoder = msgspec.json.Decoder(Chunk)


def decode_chunk(data: bytes) -> Chunk:
    """Raises msgspec.DecodeError (and its child ValidationError) for anything else."""
    return _decoder.decode(data)


class Totals:
    """Finish reasons and usage of all choices, of which each prompt has `of_each`: each choice ends with its own, which
    repeats its prompt's."""

    def __init__(self, choices: int, of_each: int) -> None:
        self._choices = choices
        self._of_each = of_each
        self._reasons: dict[int, str] = {}
        self._prompt = self._completion = 0
        self._cached: int | None = None
        self._has_usage = False

    def add(self, chunk: Chunk) -> None:
        """Takes in a chunk."""
        for choice in chunk.choices:
            if choice.finish_reason:
                self._reasons[choice.index] = choice.finish_reason
        if chunk.usage is not None:
            self._has_usage = True
            self._prompt += chunk.usage.prompt_tokens
            self._completion += chunk.usage.completion_tokens
            if self._cached is None:
                self._cached = chunk.usage.prompt_tokens_details.cached_tokens

    def sums(self) -> tuple[list[str], Usage] | None:
        """None: not all of them have ended."""
        if len(self._reasons) < self._choices or not self._has_usage:
            return None
        reasons = [reason for _, reason in sorted(self._reasons.items())]
        return reasons, Usage(self._prompt // self._of_each, self._completion, self._cached)


def _delta(choice: _Choice, shows_top: bool) -> Delta:
    message = choice.delta
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    return Delta(
        choice.text or message.content or "",
        choice.index,
        message.reasoning_content or "",
        [
            ToolPiece(call.index, call.id or "", call.function.name or "", call.function.arguments or "")
            for call in message.tool_calls
        ],
        [_logprob(logprob, shows_top) for logprob in logprobs or []],
    )


def _logprob(found: _Logprob, shows_top: bool) -> TokenLogprob:
    top = [TokenLogprob(t.token, t.logprob, t.bytes) for t in found.top_logprobs] if shows_top else []
    return TokenLogprob(found.token, found.logprob, found.bytes, top)
