"""What OpenAI's shapes of generated output share, as ready bytes: what never changes is encoded once per request. Pure.

Names beyond OpenAI's own are vLLM's: `reasoning`, `stop_reason`; and ours: `stats` in the chunk that tells the usage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec

from edge.dialect import KEEP_ALIVE, Elapsed
from edge.errors import DONE, Problem, error_frame
from edge.measures import measured, tokens_of
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import Delta, End, TokenLogprob

encode = msgspec.json.Encoder().encode

UNLIKELY = -9999.0
"""Stands where no logprob is told and the client's type wants a number, as in OpenAI's and vLLM's answers."""


class OpenAIShape(ABC):
    """One reading of one request. `created` is in Unix seconds; `model` is the name the client knows it by.

    What an event says may depend on the deltas before it (the first one of a choice names its role, the offsets of
    logprobs go on). So a shape is shown all records of its reading, also those whose events nobody is sent.
    """

    id_prefix: ClassVar[str]
    chunk_object: ClassVar[str]
    whole_object: ClassVar[str]
    keep_alive = KEEP_ALIVE

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        self._id = f"{self.id_prefix}-{rid}"
        self._model = model
        self._created = created
        self._include_usage = include_usage
        self._chunk = b"data: " + encode(self._head(self.chunk_object))[:-1] + b',"choices":['
        self._choice = self._chunk + b'{"index":'

    @abstractmethod
    def opening(self) -> bytes:
        """What a stream starts with."""

    def tokens(self, tokens: Tokens) -> bytes:
        """One event for each delta of a record."""
        deltas = tokens.deltas
        if len(deltas) == 1:
            return self._event(tokens.offset, tokens.first, deltas[0])
        return b"".join(
            [self._event(tokens.offset, index, delta) for index, delta in enumerate(deltas, tokens.first)]
        )

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The finish chunk of each choice, the usage chunk if it was asked for, and the last line."""
        finishes = _finishes(end)
        frames = [
            b"id: %d-%d\n%b%d,%b,%b]}\n\n"
            % (offset + 1, choice, self._choice, choice, self._nothing_more(choice), encode(finish)[1:])
            for choice, finish in enumerate(finishes)
        ]
        if self._include_usage:
            usage = encode(_usage_of(end, offset))
            stats = _stats_of(end, offset, elapsed)
            place = (offset + 1, len(finishes))
            frames.append(b'id: %d-%d\n%b],"usage":%b%b}\n\n' % (*place, self._chunk, usage, stats))
        return b"".join([*frames, DONE])

    def failing(self, problem: Problem, rid: str) -> bytes:
        """The error, and the last line."""
        return error_frame(problem, rid)

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The answer of a request that does not stream."""
        finishes = _finishes(end)
        silent = [Choice() for _ in finishes[len(choices) :]]
        listed = [
            {"index": index, **self._content(choice), **finish}
            for index, (choice, finish) in enumerate(zip([*choices, *silent], finishes, strict=False))
        ]
        head = self._head(self.whole_object)
        return encode(head | {"choices": listed, "usage": _usage_of(end, offset)})

    @abstractmethod
    def _event(self, offset: int, index: int, delta: Delta) -> bytes:
        """The event of one delta. This is the token path: a delta that is nothing but the first choice's text pays for
        nothing else."""

    @abstractmethod
    def _nothing_more(self, choice: int) -> bytes:
        """The fields of a finish chunk that would hold output."""

    @abstractmethod
    def _content(self, choice: Choice) -> dict[str, Any]:
        """The fields of a whole choice that hold its output."""

    def _head(self, object_: str) -> dict[str, Any]:
        return {"id": self._id, "object": object_, "created": self._created, "model": self._model}


def logprob_of(told: TokenLogprob) -> float:
    """Where the client's type wants a number."""
    return UNLIKELY if told.logprob is None else told.logprob


def _finishes(end: End) -> list[dict[str, Any]]:
    """Why each choice ended; every request has at least one."""
    finishes: list[dict[str, Any]] = [{"finish_reason": reason} for reason in end.finish_reasons or ["stop"]]
    for finish, stop in zip(finishes, end.stop_reasons, strict=False):
        if stop is not None:
            finish["stop_reason"] = stop
    return finishes


def _usage_of(end: End, offset: int) -> dict[str, Any]:
    """OpenAI's usage object; `offset` tokens were passed on."""
    told = end.usage
    prompt_tokens = told.prompt_tokens if told else 0
    completion_tokens = told.completion_tokens if told else offset
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if told is not None and told.cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": told.cached_tokens}
    if told is not None and told.reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": told.reasoning_tokens}
    return usage


def _stats_of(end: End, offset: int, elapsed: Elapsed | None) -> bytes:
    """A further field of the usage chunk, where anybody knows what the answer took."""
    tokens = tokens_of(end, offset)
    took = measured(end, tokens, elapsed)
    return b"" if took is None else b',"stats":' + encode({"completion_tokens": tokens, **took._asdict()})
