"""A simulator of an engine: no model, no GPU, readable text, and one right answer for every request.

Token i is a pure function of (prompt, seed, i), so whatever was killed, retried or continued on the way, the whole
output must equal `reference_text`; choice c is the output of seed + c. Calls, reasoning, logprobs and embeddings, where
they are asked for, follow from the same words. Time passes as in continuous batching: every running request makes one
token of each choice per step of one clock, and a request's first token comes when its prefill is over. Faults can be
set for all requests by settings, or for one by a field of its body: `"penstock_fault": {"die_at_token": 3}`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineLoad,
    EngineRequest,
)
from workers.engines.simulator_body import Faults, InvalidRequest, prompt_of
from workers.engines.simulator_run import Run, new_run
from workers.engines.simulator_text import WORDS, reference_text, reference_tokens

__all__ = [
    "Faults",
    "InvalidRequest",
    "Simulator",
    "SimulatorOptions",
    "prompt_of",
    "reference_text",
    "reference_tokens",
]

NO_FAULTS = Faults()

SLOTS = 256
"""As many as a large GPU batches."""

PREFILL_STEP_S = 0.5
"""While nothing decodes, a prefill counts as a step this often: a slow one is not a hung one."""


@dataclass(frozen=True)
class SimulatorOptions:
    """The simulator's numbers; each is the setting of its name. `itl_ms` 0 is as fast as possible, `prefill_tps` 0 an
    instant prefill."""

    ttft_ms: float
    itl_ms: float
    prefill_tps: float
    context_tokens_max: int
    max_tokens_default: int
    faults: Faults = NO_FAULTS


class Simulator:
    """The engine. One task owns the clock; while nothing runs it sleeps without waking up."""

    def __init__(self, options: SimulatorOptions) -> None:
        self._options = options
        self._itl_s = options.itl_ms / 1e3 * options.faults.slow_factor
        self._runs: dict[str, Run] = {}
        self._invalid: dict[str, EngineFailed] = {}
        self._steps = 0
        self._step_at = self._last_step_at = 0.0
        self._is_hung = False
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, sink: Callable[[EngineEvent], None]) -> Capabilities:
        """Starts the clock. The text depends on nothing but the words, so their hash is the revision."""
        self._task = asyncio.create_task(self._run(sink), name="simulator")
        return Capabilities(
            engine="simulator",
            revision=hashlib.sha256(" ".join(WORDS).encode()).hexdigest()[:12],
            tokenizer=f"words-{len(WORDS)}",
            context_tokens_max=self._options.context_tokens_max,
            max_tokens_default=self._options.max_tokens_default,
            slots=SLOTS,
        )

    def submit(self, request: EngineRequest) -> None:
        """Queues the prefill; a body that cannot be run fails with the next wake-up."""
        now = asyncio.get_running_loop().time()
        try:
            run = new_run(request, self._options.context_tokens_max)
        except InvalidRequest as error:
            self._invalid[request.key] = EngineFailed(request.key, request.run, str(error), error.reason)
        else:
            run.first_at = now + _prefill_s(run, self._options)
            self._runs[request.key] = run
        self._woken.set()

    def cancel(self, key: str) -> None:
        """Forgets a request."""
        self._runs.pop(key, None)
        self._invalid.pop(key, None)

    def load(self) -> EngineLoad:
        """Running requests, and the clock's steps."""
        return EngineLoad(len(self._runs), self._steps, self._last_step_at)

    async def wait(self) -> None:
        """Returns when stopped; raises what the clock's task died of."""
        assert self._task is not None, "wait for an engine that was started"
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """Stops the clock."""
        assert self._task is not None, "stop an engine that was started"
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self, sink: Callable[[EngineEvent], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # What the sink does about an event may be a call of `submit` or `cancel`.
            invalid, self._invalid = self._invalid, {}
            for failed in invalid.values():
                sink(failed)
            if not self._runs or self._is_hung:
                await self._woken.wait()
                self._woken.clear()
                continue
            for event in self._due(loop.time()):
                sink(event)
            await self._sleep(loop)

    async def _sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until the next step or the end of a prefill, or until a request comes."""
        if not self._runs or self._is_hung:
            return
        wake_at = min([self._step_at, *[run.first_at for run in self._runs.values() if not run.is_decoding]])
        if wake_at <= loop.time():
            await asyncio.sleep(0)
            return
        timer = loop.call_at(wake_at, self._woken.set)
        await self._woken.wait()
        timer.cancel()
        self._woken.clear()

    def _due(self, now: float) -> list[EngineEvent]:
        """What is made at `now`: a step of all that decode, and the first tokens of those whose prefill is over."""
        runs = list(self._runs.values())
        decoding = [run for run in runs if run.is_decoding]
        fresh = [run for run in runs if not run.is_decoding and run.first_at <= now]
        stepping = decoding if now >= self._step_at else []
        itl_s = self._itl_s * max([run.faults.slow_factor for run in runs], default=1.0)
        if decoding:
            if stepping:
                # No drift, and after a delay one step is made up for, not all that were missed.
                self._step_at = max(self._step_at + itl_s, now)
        else:
            self._step_at = now + (itl_s if fresh else max(itl_s, PREFILL_STEP_S))
        if stepping or fresh or not decoding:
            self._steps += 1
            self._last_step_at = now
        return [event for run in stepping + fresh for event in self._token(run)]

    def _token(self, run: Run) -> list[EngineEvent]:
        """One token of each choice of one request, or what goes wrong instead."""
        run.is_decoding = True
        offset = run.offset
        for faults in (self._options.faults, run.faults):
            if faults.die_at_token == offset:
                os.kill(os.getpid(), signal.SIGKILL)
            if faults.hang_at_token == offset:
                self._is_hung = True
            if faults.raise_at_token == offset:
                return [self._failed(run, "RuntimeError: fault injected by the simulator")]
            if faults.oom_at_token == offset:
                return [self._failed(run, "MemoryError: fault injected by the simulator")]
        if self._is_hung:
            return []
        output = run.step()
        if isinstance(output, EngineFinished):
            del self._runs[run.key]
        return [output]

    def _failed(self, run: Run, error: str) -> EngineFailed:
        del self._runs[run.key]
        return EngineFailed(run.key, run.number, error)


def _prefill_s(run: Run, options: SimulatorOptions) -> float:
    """Until the first token; what is complete already needs none."""
    if run.choices and run.is_complete:
        return 0.0
    prefill_s = run.prompt_tokens / options.prefill_tps if options.prefill_tps else 0.0
    return (options.ttft_ms / 1e3 + prefill_s) * options.faults.slow_factor * run.faults.slow_factor
