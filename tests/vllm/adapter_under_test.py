"""The vLLM engine without a worker around it: requests in, events out."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from infra.settings import load_settings
from schemas.choices import Choice
from schemas.log import Fold
from schemas.output import Usage
from schemas.requests import RequestMeta
from workers.engines.base import (
    Capabilities,
    Engine,
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    Prefix,
    prefix_of,
)
from workers.engines.registry import make_engine

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "tell me of rivers"}], "max_tokens": 24}
# Two long prompts do not fit one step.
ARGS = (
    "enforce-eager max-num-batched-tokens=1024 "
    "enable-auto-tool-choice tool-call-parser=hermes reasoning-parser=qwen3"
)
DEADLINE_S = 60.0


class Content(NamedTuple):
    """All that a choice put out, and its tokens."""

    ids: list[int]
    text: str
    reasoning: str
    calls: list[tuple[str, str]]
    logprobs: list[tuple[str, float | None]]


class Answer(NamedTuple):
    """What a client can tell of a finished request."""

    choices: list[Content]
    finish_reasons: list[str]
    stop_reasons: list[str | int | None]
    usage: Usage


class Adapter:
    """A started engine, and the events of its requests."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.can: Capabilities
        self._numbers = count(1)
        self._events: dict[str, asyncio.Queue[EngineEvent]] = {}

    async def start(self) -> None:
        """Loads the model."""
        self.can = await self.engine.start(lambda event: self._events[event.key].put_nowait(event))

    def submit(
        self, body: dict[str, Any], prefix: Prefix | None = None, *, rid: str = "", limit: int = 0
    ) -> str:
        """Starts a request; its key."""
        key = f"tenant.{rid or f'rid{next(self._numbers)}'}"
        self._events[key] = asyncio.Queue()
        meta = RequestMeta(max_tokens=limit)
        self.engine.submit(EngineRequest(key, 1, msgspec.json.encode(body), meta, prefix))
        return key

    async def next(self, key: str) -> EngineEvent:
        """The next event of a request."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._events[key].get()

    async def events(
        self, body: dict[str, Any], prefix: Prefix | None = None, **how: Any
    ) -> list[EngineEvent]:
        """All events of a request."""
        key = self.submit(body, prefix, **how)
        events = [await self.next(key)]
        while isinstance(events[-1], EngineOutput):
            assert events[-1].ids, "an output has a token"
            events.append(await self.next(key))
        assert self._events.pop(key).empty()
        return events

    async def answer(self, body: dict[str, Any], **how: Any) -> Answer:
        """What a request that ends well puts out."""
        return answer_of(Fold(), await self.events(body, **how))

    async def failure(self, body: dict[str, Any], prefix: Prefix | None = None) -> EngineFailed:
        """How a request ends that cannot run."""
        event = (await self.events(body, prefix))[-1]
        assert isinstance(event, EngineFailed), event
        return event

    def nothing_came(self, key: str) -> bool:
        """Whether no event of a request waits to be read."""
        return self._events[key].empty()


@asynccontextmanager
async def running(model: Path, **more: Any) -> AsyncIterator[Adapter]:
    """An engine on the tiny model, in float32: two runs can be compared."""
    given = {
        "engine": "vllm",
        "model": str(model),
        "max_model_len": 1024,
        "max_num_seqs": 4,
        "dtype": "float32",
        "engine_arg": ARGS,
        "log_level": "warning",
    }
    adapter = Adapter(make_engine(load_settings(given | more)))
    await adapter.start()
    try:
        yield adapter
    finally:
        await adapter.engine.stop()
        del adapter.engine
        gc.collect()  # vLLM leaves sockets to the collector, which would complain in somebody else's test


def add(fold: Fold, event: EngineEvent) -> None:
    """Appends what an event made."""
    assert not isinstance(event, EngineFailed), event
    fold.add(len(fold.ids), event.ids, event.deltas, event.of)


def prefixes(events: list[EngineEvent]) -> list[Prefix]:
    """What a log holds after each event but the last one."""
    fold = Fold()
    cut = []
    for event in events[:-1]:
        add(fold, event)
        cut.append(prefix_of(fold))
    return cut


def answer_of(before: Fold, events: list[EngineEvent]) -> Answer:
    """The answer of a log and the events that complete it."""
    for event in events:
        add(before, event)
    finished = events[-1]
    assert isinstance(finished, EngineFinished), finished
    of = before.of or [0] * len(before.ids)
    choices = [
        _content(choice, [token for token, owner in zip(before.ids, of, strict=True) if owner == index])
        for index, choice in enumerate(before.choices)
    ]
    return Answer(choices, finished.finish_reasons, finished.stop_reasons, finished.usage)


def fold_of(prefix: Prefix) -> Fold:
    """A log with this much in it."""
    return Fold(prefix.ids, prefix.of, prefix.choices).copy()


def _content(choice: Choice, ids: list[int]) -> Content:
    calls = [(call.name, call.arguments) for call in choice.tools]
    logprobs = [(logprob.token, logprob.logprob) for logprob in choice.logprobs]
    return Content(ids, choice.text, choice.reasoning, calls, logprobs)
