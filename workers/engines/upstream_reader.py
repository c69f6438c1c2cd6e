"""One answer of an OpenAI-compatible server while it comes in: bytes become events of the engine's seam. Pure.

An answer is complete when every choice has a finish reason and the stream says so, by `[DONE]` or by ending in order.
Anything else, a clean close of the connection too, is a failure of the server.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

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
from workers.engines.upstream_answers import words_of
from workers.engines.upstream_chunks import (
    DONE,
    Chunk,
    ChunkChoice,
    ChunkUsage,
    decode_chunk,
    piece_of,
    usage_of,
)
from workers.engines.upstream_final import FinalMessage
from workers.engines.upstream_sse import EventStream, TooLong

EVENT_BYTES_MAX = 1 << 20
"""The longest event: one with the top 20 logprobs of each of a hundred tokens is a quarter of it."""

RESULT_BYTES_MAX = 6 << 20
"""The longest answer that comes whole: it has to fit one record of the log with room to spare (8 MiB)."""

HELD_MAX = 1024
"""Deltas that may wait for a token to belong to: a server that tells ids tells one soon."""

FAILED_FINISHES = ("abort", "error")
"""Finish reasons that say that the server gave up: vLLM's when it shuts down or its engine raises."""


class Inexact(Exception):
    """The server does not go on from the tokens of the log: nothing of this answer may be used."""


class Malformed(Exception):
    """The server breaks the protocol, or its own rules."""


class StreamReader:
    """A streamed answer. What the log has already is made again and dropped, if it is the same."""

    def __init__(
        self,
        request: EngineRequest,
        choices: int,
        context_tokens_max: int,
        final: FinalMessage | None = None,
    ) -> None:
        prefix = request.prefix if final is None else None
        self._final = final
        self._is_checked = final is None
        self._key, self._run = request.key, request.run
        self._choices = choices
        self._context_tokens_max = context_tokens_max
        self._events = EventStream(EVENT_BYTES_MAX)
        # Only what told ids before can tell them again: a log of pieces is compared by its content alone.
        self._replay = Replay(prefix, has_ids=prefix is not None and any(prefix.ids))
        self._made: Counter[int] = Counter({0: len(final.ids)} if final else ())
        self._ids: list[int] = []
        self._deltas: list[Delta] = []
        self._of: list[int] = []
        self._finish_reasons: dict[int, str] = {}
        self._stop_reasons: dict[int, str | int] = {}
        self._usage: ChunkUsage | None = None
        self.has_begun = False
        """Whether the model said anything, known or new."""

    def read(self, data: bytes) -> list[EngineEvent]:
        """What some bytes of the body tell. After EngineFinished or EngineFailed nothing more is to be read. Raises
        Inexact."""
        try:
            payloads = self._events.feed(data)
        except TooLong as error:
            return self._failed(f"the upstream sent {error}")
        return self._take_all(payloads)

    def end(self) -> list[EngineEvent]:
        """The body ended in order."""
        events = self._take_all(self._events.finish())
        if events and not isinstance(events[-1], EngineOutput):
            return events
        return events + self._finish()

    def _take_all(self, payloads: list[bytes]) -> list[EngineEvent]:
        try:
            for payload in payloads:
                if payload == DONE:
                    return self._finish()
                self._take(payload)
        except Malformed as error:
            return [*self._output(), *self._failed(str(error))]
        except Differs as error:
            return [*self._output(), *self._differs(error)]
        return self._output()

    def _take(self, payload: bytes) -> None:
        try:
            chunk: Chunk = decode_chunk(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"the upstream sent a chunk that cannot be read: {error}") from None
        if chunk.error:
            raise Malformed(f"the upstream failed: {words_of(payload).message}")
        if not self._is_checked and self._final is not None:
            if not self._final.is_exact(chunk.prompt_token_ids):
                raise Inexact
            self._is_checked = True
        for choice in chunk.choices or []:
            self._take_choice(choice)
        if chunk.usage is not None:
            self._usage = chunk.usage

    def _take_choice(self, choice: ChunkChoice) -> None:
        index = choice.index
        if index >= self._choices:
            raise Malformed(f"the upstream sent choice {index} where {self._choices} were asked for")
        if choice.finish_reason in FAILED_FINISHES:
            raise Malformed(f"the upstream gave up: finish reason {choice.finish_reason!r}")
        ids, delta = piece_of(choice)
        if self._final is not None and delta is not None and delta.reasoning:
            if self.has_begun:
                raise Malformed("the upstream went on with reasoning in the middle of an answer")
            raise Inexact
        if ids or delta is not None:
            self.has_begun = True
            self._made[index] += len(ids)
            if self._made[index] > self._context_tokens_max:
                raise Malformed(
                    f"the upstream sent more than the {self._context_tokens_max} tokens of a context"
                )
            self._add(ids, delta, index)
        if choice.finish_reason is not None:
            self._finish_reasons[index] = choice.finish_reason
        if choice.stop_reason is not None:
            self._stop_reasons[index] = choice.stop_reason

    def _add(self, ids: list[int], delta: Delta | None, index: int) -> None:
        made = self._replay.take(ids, [] if delta is None else [delta], [index] * len(ids) if index else [])
        if made is None:
            return
        self._ids += made.ids
        self._deltas += made.deltas
        self._of += made.of or [0] * len(made.ids)
        if len(self._deltas) > HELD_MAX and not self._ids:
            raise Malformed("the upstream sends text without tokens")

    def _output(self) -> list[EngineEvent]:
        if not self._ids:
            return []
        return [EngineOutput(self._key, self._run, *self._pop())]

    def _pop(self) -> tuple[list[int], list[Delta], list[int]]:
        popped = (self._ids, self._deltas, self._of if any(self._of) else [])
        self._ids, self._deltas, self._of = [], [], []
        return popped

    def _finish(self) -> list[EngineEvent]:
        if len(self._finish_reasons) < self._choices:
            return [*self._output(), *self._failed("the upstream ended its answer before it was complete")]
        try:
            self._deltas += self._replay.finish()
        except Differs as error:
            return self._differs(error)
        ids, deltas, of = self._pop()
        choices = range(self._choices)
        usage = self._whole_usage()
        finished = EngineFinished(
            self._key,
            self._run,
            [self._finish_reasons[choice] for choice in choices],
            usage,
            ids,
            deltas,
            of,
            [self._stop_reasons.get(choice) for choice in choices] if self._stop_reasons else [],
        )
        return [finished]

    def _whole_usage(self) -> Usage:
        if self._final is None or self._usage is None:
            return usage_of(self._usage, self._made.total())
        return self._final.whole(usage_of(self._usage, 0))

    def _differs(self, error: Differs) -> list[EngineEvent]:
        text = f"the upstream did not repeat what it had said before its answer was cut off: {error}"
        return self._failed(text, "not_continuable")

    def _failed(self, error: str, reason: FailReason = "engine_error") -> list[EngineEvent]:
        return [EngineFailed(self._key, self._run, error, reason)]


class ProbeReader:
    """The answer to a probe of `final`."""

    has_begun = False

    def __init__(self, final: FinalMessage) -> None:
        self._final = final
        self._body = bytearray()

    def read(self, data: bytes) -> list[EngineEvent]:
        """Takes some bytes of the body. Raises Inexact."""
        self._body += data
        if len(self._body) > RESULT_BYTES_MAX:
            raise Inexact
        return []

    def end(self) -> list[EngineEvent]:
        """The body ended in order. Raises Inexact."""
        if not self._final.probed(bytes(self._body)):
            raise Inexact
        return []


class WholeReader:
    """An answer that comes whole: embeddings."""

    has_begun = False

    def __init__(self, request: EngineRequest) -> None:
        self._key, self._run = request.key, request.run
        self._body = bytearray()

    def read(self, data: bytes) -> list[EngineEvent]:
        """Takes some bytes of the body."""
        self._body += data
        if len(self._body) <= RESULT_BYTES_MAX:
            return []
        error = f"the answer is larger than {RESULT_BYTES_MAX} bytes: send fewer inputs in one request"
        return [EngineFailed(self._key, self._run, error, "bad_request")]

    def end(self) -> list[EngineEvent]:
        """The body ended in order."""
        body = bytes(self._body)
        try:
            result = msgspec.json.decode(body, type=_Result)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return [EngineFailed(self._key, self._run, f"the upstream's answer cannot be read: {error}")]
        usage = Usage((result.usage or ChunkUsage()).prompt_tokens or 0, 0)
        return [EngineFinished(self._key, self._run, [], usage, result=msgspec.Raw(body.strip()))]


class _Result(msgspec.Struct):
    data: Any
    usage: ChunkUsage | None = None
