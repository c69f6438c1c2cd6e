"""The seam between a worker and whatever runs its model.

An engine takes requests in the bytes the client sent, and tells what happens to them as events. A request is named by
its `key`, each start of it by its `run`: events of a run that was cancelled are told apart from those of the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from schemas.output import Delta, Usage
from schemas.requests import RequestMeta


class Capabilities(msgspec.Struct, frozen=True):
    """What an engine is and can do; fixed once it has started.

    A log can be continued only by an engine of the same kind (`engine`), model `revision` and `tokenizer`.
    `continuation` says how exact that is: "exact" means that prefix and continuation together equal an uncut run.
    `context_tokens_max` bounds prompt + output; `max_tokens_default` is the output of a request that names no limit.
    `step_s_max` is for an engine whose healthy steps may take longer than the setting of that name allows, because it
    compiles for a new shape, say: the longer one of the two is waited for before it counts as hung.
    """

    engine: str
    revision: str
    tokenizer: str
    continuation: Literal["exact"]
    context_tokens_max: int
    max_tokens_default: int
    step_s_max: float = 0.0


class EngineLoad(msgspec.Struct, frozen=True):
    """How busy an engine is. `last_step_at` is in seconds of the event loop's clock: a hung engine is one whose steps
    stand still while requests run. A prefill makes steps too, at least one per `step_s_max`: chunks of it, or signs of
    life from where it runs. One that nobody could tell from a hang is taken for one."""

    running: int
    steps: int
    last_step_at: float


class Prefix(msgspec.Struct, frozen=True):
    """What earlier attempts already have in the log: the tokens, and the text that was sent out for them, per choice.

    The text may be shorter than the tokens say: what a stop check held back died with its worker, and is to be emitted
    first.
    """

    ids: list[int]
    texts: list[str]


class EngineRequest(msgspec.Struct, frozen=True):
    """A request as an engine gets it. `body` is the OpenAI-compatible JSON object, undecoded."""

    key: str
    run: int
    body: bytes
    meta: RequestMeta
    prefix: Prefix | None = None


class EngineOutput(msgspec.Struct, frozen=True):
    """New tokens of a run (at least one) and the text they release, which may be none."""

    key: str
    run: int
    ids: list[int]
    deltas: list[Delta]


class EngineFinished(msgspec.Struct, frozen=True):
    """A run is complete: its last tokens, one finish reason per choice ("stop", "length"), and what it used.

    `usage` counts the whole request, whatever part of it this run made.
    """

    key: str
    run: int
    finish_reasons: list[str]
    usage: Usage
    ids: list[int] = []
    deltas: list[Delta] = []


class EngineFailed(msgspec.Struct, frozen=True, gc=False):
    """A run broke off. `reason` "engine_error": the engine's fault, another attempt may succeed. The others are the
    client's mistake and final: `error` tells the client which field to change."""

    key: str
    run: int
    error: str
    reason: Literal["bad_request", "context_length", "engine_error"] = "engine_error"


EngineEvent = EngineOutput | EngineFinished | EngineFailed


class Engine(Protocol):
    """What a worker needs of an engine. All methods are called in one event loop.

    The sink is never called from inside `submit` or `cancel`. `EngineFinished` and `EngineFailed` are the last event of
    their run; after `cancel` there is none.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Known before `start`."""
        ...

    async def start(self, sink: Callable[[EngineEvent], None]) -> None:
        """Loads, compiles and warms up, however long it takes; returns when requests run at full speed: before that
        the worker is not ready, and nothing counts as a hang. Raises what makes serving impossible."""
        ...

    def submit(self, request: EngineRequest) -> None:
        """Takes a request. Never raises on its content: that comes back as `EngineFailed`."""
        ...

    def cancel(self, key: str) -> None:
        """Frees what a request holds; one that is not running is no error."""
        ...

    def load(self) -> EngineLoad:
        """Cheap: asked before every decision that depends on progress."""
        ...

    async def wait(self) -> None:
        """Returns when the engine was stopped, raises when it died: the worker's process ends with it."""
        ...

    async def stop(self) -> None:
        """Drops what runs and frees the device."""
        ...
