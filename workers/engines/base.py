"""The seam between a worker and whatever runs its model.

An engine takes requests in the bytes the client sent, and tells what happens to them as events. A request is named by
its `key`, each start of it by its `run`: events of a run that was cancelled are told apart from those of the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from schemas.choices import Choice
from schemas.log import Fold
from schemas.output import Delta, Usage
from schemas.requests import RequestMeta


class Capabilities(msgspec.Struct, frozen=True):
    """What an engine is and can do; fixed once it has started.

    A log can be continued only by an engine of the same kind (`engine`), model `revision` and `tokenizer`: whatever
    changes the output for the same request has to change one of them. `context_tokens_max` bounds prompt + output;
    `max_tokens_default` is the output of a request that names no limit. `slots` is how many requests it runs at the
    same time. `adapters` are the names of further models that it runs as variants of its own (LoRA).
    `step_s_max` is for an engine whose healthy steps may take longer than the setting of that name allows, because it
    compiles for a new shape, say: the longer one of the two is waited for before it counts as hung.
    `name` is what clients call the model; empty: as the setting `model` has it.
    """

    engine: str
    revision: str
    tokenizer: str
    context_tokens_max: int
    max_tokens_default: int
    slots: int
    adapters: list[str] = []
    step_s_max: float = 0.0
    name: str = ""


class EngineLoad(msgspec.Struct, frozen=True):
    """How busy an engine is. `last_step_at` is in seconds of the event loop's clock: a hung engine is one whose steps
    stand still while requests run. A prefill makes steps too, at least one per `step_s_max`: chunks of it, or signs of
    life from where it runs. One that nobody could tell from a hang is taken for one."""

    running: int
    steps: int
    last_step_at: float


class Prefix(msgspec.Struct, frozen=True):
    """What earlier attempts already have in the log: the tokens, the choice of each (`of`; empty: all are the first
    one's), and what was sent out for them, per choice.

    That may be less than the tokens say: what a stop check or a parser held back died with its worker, and is to be
    emitted first.
    """

    ids: list[int]
    of: list[int]
    choices: list[Choice]

    def ids_of(self, choice: int) -> list[int]:
        """The tokens of one choice, in their order."""
        if not self.of:
            return self.ids if choice == 0 else []
        return [token for token, owner in zip(self.ids, self.of, strict=True) if owner == choice]


def prefix_of(log: Fold) -> Prefix:
    """What there is to continue in a log. It stays as it is, however the log grows."""
    copy = log.copy()
    return Prefix(copy.ids, copy.of, copy.choices)


class EngineRequest(msgspec.Struct, frozen=True):
    """A request as an engine gets it. `body` is the OpenAI-compatible JSON object, undecoded."""

    key: str
    run: int
    body: bytes
    meta: RequestMeta
    prefix: Prefix | None = None


class EngineOutput(msgspec.Struct, frozen=True):
    """New tokens of a run (at least one) and what they release, which may be nothing. `of` names the choice of each
    token; empty: all are the first one's. An engine without token ids counts: 0 for each piece it got."""

    key: str
    run: int
    ids: list[int]
    deltas: list[Delta]
    of: list[int] = []


class EngineFinished(msgspec.Struct, frozen=True):
    """A run is complete: its last tokens, one finish reason per choice ("stop", "length", "tool_calls"), and what it
    used. `stop_reasons`: the stop string or token that ended each choice, where the engine tells. `result` is the
    answer of a request that makes no tokens (embeddings): a JSON document.

    `usage` counts the whole request, whatever part of it this run made.
    """

    key: str
    run: int
    finish_reasons: list[str]
    usage: Usage
    ids: list[int] = []
    deltas: list[Delta] = []
    of: list[int] = []
    stop_reasons: list[str | int | None] = []
    result: msgspec.Raw | None = None


FailReason = Literal["bad_request", "context_length", "model_not_found", "not_continuable", "engine_error"]


class EngineFailed(msgspec.Struct, frozen=True, gc=False):
    """A run broke off. `reason` "engine_error": the engine's fault, another attempt may succeed. The others are final:
    "not_continuable" says that what is in the log cannot be gone on from, the rest is the client's mistake, and `error`
    tells the client which field to change."""

    key: str
    run: int
    error: str
    reason: FailReason = "engine_error"


EngineEvent = EngineOutput | EngineFinished | EngineFailed


class Engine(Protocol):
    """What a worker needs of an engine. All methods are called in one event loop.

    The sink is never called from inside `submit` or `cancel`. `EngineFinished` and `EngineFailed` are the last event of
    their run; after `cancel` there is none.
    """

    async def start(self, sink: Callable[[EngineEvent], None]) -> Capabilities:
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
