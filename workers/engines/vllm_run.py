"""One request on vLLM: what the serving layer streams of it, told as events."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import msgspec

from schemas.output import Delta, Usage
from workers.engines.base import (
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    FailReason,
)
from workers.engines.replay import Differs, Replay
from workers.engines.vllm_chunks import Chunk, StreamError

CONTEXT_WORDS = ("context length", "maximum model length", "max_model_len")
"""By these vLLM's messages about a prompt that is too long are told from its other ones: they have no type of their
own."""


class Run:
    """Between the outputs of vLLM's engine, which have the ids, and the chunks of its serving layer, which have the
    text: the chunks that come while the serving layer works on an output belong to its ids."""

    def __init__(self, request: EngineRequest, tokens_max: int, sink: Callable[[EngineEvent], None]) -> None:
        self.key = request.key
        self.tenant, _, self.rid = request.key.rpartition(".")
        self.prefix = request.prefix
        self.tokens_max = tokens_max
        self.is_over = False
        self._number = request.run
        self._sink = sink
        self._replay = Replay(request.prefix, has_ids=True)
        self._choices = 0
        self._made: dict[int, list[int]] = {}
        self._ids: list[int] = []
        self._of: list[int] = []
        self._deltas: list[Delta] = []
        self._is_last = False
        self._finish_reasons: dict[int, str] = {}
        self._stop_reasons: dict[int, str | int | None] = {}
        self._usage: Usage | None = None

    def next_choice(self, count: int) -> int:
        """The first choice of the next of its prompts, which has `count` of them."""
        first, self._choices = self._choices, self._choices + count
        return first

    def note(self, ids: list[tuple[int, list[int]]], *, is_last: bool) -> None:
        """The engine made these tokens, of these choices."""
        for choice, made in ids:
            self._made.setdefault(choice, []).extend(made)
            self._ids += made
            self._of += [choice] * len(made)
        self._is_last = is_last

    def passed(self) -> None:
        """The serving layer has put out all that it makes of them for now. The last ones wait for what ends them."""
        if self._is_last or not self._ids or self.is_over:
            return
        made = self._new()
        if made is not None:
            ids, deltas, of = made
            self._sink(EngineOutput(self.key, self._number, ids, deltas, of))

    def take(self, chunk: Chunk) -> None:
        """A chunk of the serving layer."""
        if chunk.error is not None:
            self.fail(chunk.error)
            return
        for piece in chunk.pieces:
            if piece.delta is not None:
                self._deltas.append(piece.delta)
            if piece.finish_reason is not None:
                self._finish_reasons[piece.choice] = piece.finish_reason
                self._stop_reasons[piece.choice] = piece.stop_reason
        if chunk.usage is not None:
            self._usage = chunk.usage

    def finish(self, count_reasoning: Callable[[list[int]], int] | None = None) -> None:
        """The stream has ended. `count_reasoning`: of a choice's tokens, where vLLM's own count does not do: while it
        streams, it depends on how many tokens each output happened to bring."""
        if self.is_over:
            return
        usage = self._usage
        if usage is None or not self._finish_reasons:
            self._end(EngineFailed(self.key, self._number, "vLLM's stream broke off"))
            return
        if count_reasoning is not None and usage.reasoning_tokens is not None:
            reasoning_tokens = sum([count_reasoning(ids) for ids in self._made.values()])
            usage = msgspec.structs.replace(usage, reasoning_tokens=reasoning_tokens)
        ids, deltas, of = self._new() or ([], [], [])
        if self.is_over:
            return
        try:
            deltas = [*deltas, *self._replay.finish()]
        except Differs as differs:
            self._end(EngineFailed(self.key, self._number, str(differs), "not_continuable"))
            return
        choices = range(max(self._finish_reasons) + 1)
        reasons = [self._finish_reasons.get(choice, "stop") for choice in choices]
        stops = [self._stop_reasons.get(choice) for choice in choices]
        self._end(
            EngineFinished(
                self.key,
                self._number,
                reasons,
                usage,
                ids,
                deltas,
                of,
                stops if any(stop is not None for stop in stops) else [],
            )
        )

    def answer(self, document: msgspec.Raw, usage: Usage) -> None:
        """A request that makes no tokens is answered."""
        self._end(EngineFinished(self.key, self._number, [], usage, result=document))

    def fail(self, error: StreamError) -> None:
        """vLLM refused the request, or broke off."""
        self._end(EngineFailed(self.key, self._number, error.message, reason_of(error)))

    def _end(self, event: EngineEvent) -> None:
        if not self.is_over:
            self.is_over = True
            self._sink(event)

    def _new(self) -> tuple[list[int], list[Delta], list[int]] | None:
        """What the log has not of all that has come since the last time; ends the run where it differs."""
        ids, self._ids = self._ids, []
        of, self._of = self._of, []
        deltas, self._deltas = self._deltas, []
        try:
            made = self._replay.take(ids, deltas, of if any(of) else [])
        except Differs as differs:
            self._end(EngineFailed(self.key, self._number, str(differs), "not_continuable"))
            return None
        return None if made is None else (made.ids, made.deltas, made.of)


def reason_of(error: StreamError) -> FailReason:
    """vLLM's kind of an error in our words."""
    if error.code == HTTPStatus.NOT_FOUND:
        return "model_not_found"
    if error.code == HTTPStatus.NOT_IMPLEMENTED:
        return "bad_request"
    if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code == HTTPStatus.TOO_MANY_REQUESTS:
        return "engine_error"
    if any(words in error.message for words in CONTEXT_WORDS):
        return "context_length"
    return "bad_request"
