"""An engine under test, and what its requests put out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from infra.settings import load_settings
from schemas.choices import Choice
from schemas.log import Fold
from schemas.requests import RequestMeta
from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    prefix_of,
)
from workers.engines.llamacpp import LlamaCpp

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello river"}],
    "temperature": 0,
    "max_tokens": 80,
}
ANSWER_S = 30.0


@dataclass
class Answer:
    """All events of one run."""

    outputs: list[EngineOutput] = field(default_factory=list)
    end: EngineFinished | EngineFailed | None = None

    @property
    def log(self) -> Fold:
        """As a log has it."""
        log = Fold()
        for output in self.outputs:
            log.add(len(log.ids), output.ids, output.deltas, output.of)
        if isinstance(self.end, EngineFinished):
            log.add(len(log.ids), self.end.ids, self.end.deltas, self.end.of)
        return log

    @property
    def choices(self) -> list[Choice]:
        """What was put out."""
        return self.log.choices

    @property
    def text(self) -> str:
        """Of a single choice."""
        (choice,) = self.choices
        return choice.text

    @property
    def finished(self) -> EngineFinished:
        """The good end."""
        assert isinstance(self.end, EngineFinished), self.end
        return self.end

    @property
    def failed(self) -> EngineFailed:
        """The bad end."""
        assert isinstance(self.end, EngineFailed), self.end
        return self.end


class Running:
    """A started engine."""

    def __init__(self, engine: LlamaCpp) -> None:
        self.engine = engine
        self.can: Capabilities
        self._answers: dict[tuple[str, int], Answer] = {}
        self._numbers = 0
        self._news = asyncio.Event()

    def sink(self, event: EngineEvent) -> None:
        """Where the engine's events go."""
        answer = self._answers[event.key, event.run]
        assert answer.end is None, "nothing comes after the end"
        if isinstance(event, EngineOutput):
            assert event.ids, "an output has a token"
            answer.outputs.append(event)
        else:
            answer.end = event
        self._news.set()

    def submit(self, body: Any, *, rid: str = "rid0", log: Fold | None = None, max_tokens: int = 0) -> Answer:
        """Starts a request, or goes on with what `log` has of it."""
        self._numbers += 1
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        key = f"tenant.{rid}"
        answer = self._answers[key, self._numbers] = Answer()
        meta = RequestMeta(max_tokens=max_tokens)
        prefix = prefix_of(log) if log is not None else None
        self.engine.submit(EngineRequest(key, self._numbers, raw, meta, prefix))
        return answer

    async def until(self, answer: Answer, outputs: int | None = None) -> Answer:
        """Waits for the end, or for so many outputs."""
        async with asyncio.timeout(ANSWER_S):
            while answer.end is None and (outputs is None or len(answer.outputs) < outputs):
                self._news.clear()
                await self._news.wait()
        return answer

    async def ask(self, body: Any, **how: Any) -> Answer:
        """The whole answer."""
        return await self.until(self.submit(body, **how))


@asynccontextmanager
async def running(model: Path, **settings: Any) -> AsyncIterator[Running]:
    """An engine with the given settings, stopped at the end."""
    given = {"engine": "llamacpp", "model": str(model), "threads": 1, "parallel": 2, **settings}
    engine = LlamaCpp(load_settings(given))
    under_test = Running(engine)
    under_test.can = await engine.start(under_test.sink)
    try:
        yield under_test
    finally:
        await engine.stop()
    await engine.wait()
