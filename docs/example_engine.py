"""An engine that says the prompt back, one word per step. docs/engines.md explains it; a test runs it in a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import msgspec

from schemas.output import Delta, Usage
from workers.engines import base
from workers.engines.base import EngineEvent, EngineOutput, EngineRequest


class Body(msgspec.Struct):
    prompt: str
    max_tokens: int | None = None


def echo(request: EngineRequest) -> Iterator[EngineEvent]:
    """What happens to a request, one event per step. Word i is token i, so it goes on where the log ends."""
    key, run = request.key, request.run
    try:
        body = msgspec.json.decode(request.body, type=Body)
    except msgspec.ValidationError as error:
        yield base.EngineFailed(key, run, str(error), "bad_request")
        return
    words = body.prompt.split()[: body.max_tokens]
    for i in range(len(request.prefix.ids) if request.prefix else 0, len(words)):
        yield EngineOutput(key, run, [i], [Delta(words[i] + " ")])
    yield base.EngineFinished(key, run, ["stop"], Usage(len(words), len(words)))


class Echo:
    def __init__(self, step_s: float) -> None:
        self._step_s, self._steps, self._last_step_at = step_s, 0, 0.0
        self._running: dict[str, Iterator[EngineEvent]] = {}

    async def start(self, sink: Callable[[EngineEvent], None]) -> base.Capabilities:
        self._task = asyncio.create_task(self._step_for_ever(sink))
        return base.Capabilities(
            "echo", "1", "words", context_tokens_max=4096, max_tokens_default=256, slots=64
        )

    def submit(self, request: EngineRequest) -> None:
        self._running[request.key] = echo(request)

    def cancel(self, key: str) -> None:
        self._running.pop(key, None)

    def load(self) -> base.EngineLoad:
        return base.EngineLoad(len(self._running), self._steps, self._last_step_at)

    async def wait(self) -> None:
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        self._task.cancel()

    async def _step_for_ever(self, sink: Callable[[EngineEvent], None]) -> None:
        while True:
            await asyncio.sleep(self._step_s)
            self._steps, self._last_step_at = self._steps + 1, asyncio.get_running_loop().time()
            for key, events in list(self._running.items()):
                if self._running.get(key) is events:  # else the sink has cancelled it in this very step
                    event = next(events)
                    if not isinstance(event, EngineOutput):
                        del self._running[key]
                    sink(event)
