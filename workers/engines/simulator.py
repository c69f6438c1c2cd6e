"""A simulator of an engine: no model, no GPU, readable text, and one right answer for every request.

Token i is a pure function of (prompt, seed, i), so whatever was killed, retried or continued on the way, the whole
output must equal `reference_text`. Time passes as in continuous batching: every running request makes one token per
step of one clock, and a request's first token comes when its prefill is over. Faults can be set for all requests by
settings, or for one by a field of its body: `"penstock_fault": {"die_at_token": 3}`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.output import Delta, Usage
from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineLoad,
    EngineOutput,
    EngineRequest,
    Prefix,
)
from workers.engines.simulator_body import Faults, InvalidRequest, decode_body, prompt_of, prompt_text
from workers.engines.simulator_text import (
    WORDS,
    natural_length,
    output_key,
    reference_text,
    reference_tokens,
    text_of,
    token_at,
)

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
        self._runs: dict[str, _Run] = {}
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
            run = _new_run(request, self._options)
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

    def _token(self, run: _Run) -> list[EngineEvent]:
        """One token of one request, or what goes wrong instead."""
        run.is_decoding = True
        offset = len(run.ids)
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
        ids = run.step()
        deltas = run.release()
        if run.finish_reason is None:
            return [EngineOutput(run.key, run.number, ids, deltas)]
        del self._runs[run.key]
        usage = Usage(prompt_tokens=run.prompt_tokens, completion_tokens=len(run.ids))
        return [EngineFinished(run.key, run.number, [run.finish_reason], usage, ids, deltas)]

    def _failed(self, run: _Run, error: str) -> EngineFailed:
        del self._runs[run.key]
        return EngineFailed(run.key, run.number, error)


@dataclass
class _Run:
    """One request while it runs. What is released is a function of the ids alone, so a continuation is exact."""

    key: str
    number: int
    seed_key: int
    prompt_tokens: int
    tokens_max: int
    end_reason: str
    stops: list[str]
    faults: Faults
    first_at: float = 0.0
    is_decoding: bool = False
    finish_reason: str | None = None
    ids: list[int] = field(default_factory=list)
    text: str = ""
    released: int = 0

    def step(self) -> list[int]:
        """Makes the next token, unless the output is complete already."""
        if self._is_complete():
            return []
        token = token_at(self.seed_key, len(self.ids))
        self._add(token)
        self._is_complete()
        return [token]

    def replay(self, prefix: Prefix) -> None:
        """Takes over the tokens of earlier attempts. Text that they released is not released again."""
        for token in prefix.ids:
            if self._is_complete():
                break
            self._add(token)
        self._is_complete()
        self.released = len(prefix.choices[0].text) if prefix.choices else 0

    def release(self) -> list[Delta]:
        """The text that is new and certain: what may become a stop string is held back until it is decided."""
        end = len(self.text)
        if self.stops and self.finish_reason is None:
            end -= max([_overlap(self.text, stop) for stop in self.stops])
        text, self.released = self.text[self.released : end], max(end, self.released)
        return [Delta(text)] if text else []

    def _add(self, token: int) -> None:
        text_before = len(self.text)
        self.text += text_of(token, len(self.ids))
        self.ids.append(token)
        if self.stops:
            self._cut(text_before)

    def _cut(self, text_before: int) -> None:
        """Ends the output before the first stop string, which may begin before the token that completed it."""
        start = max(0, text_before - max([len(stop) for stop in self.stops]))
        found = [at for at in [self.text.find(stop, start) for stop in self.stops] if at >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish_reason = "stop"

    def _is_complete(self) -> bool:
        if self.finish_reason is None and len(self.ids) >= self.tokens_max:
            self.finish_reason = self.end_reason
        return self.finish_reason is not None


def _new_run(request: EngineRequest, options: SimulatorOptions) -> _Run:
    body = decode_body(request.body)
    prompt = prompt_text(body)
    seed = body.seed or 0
    prompt_tokens = len(prompt.split())
    room = options.context_tokens_max - prompt_tokens
    asked = body.max_completion_tokens or body.max_tokens
    natural = natural_length(prompt, seed)
    # Who names no limit gets an answer of natural length, cut at the limit that was set for it on its way here.
    limit = asked or min(request.meta.max_tokens or natural, natural, room)
    if limit > room or room < 1:
        raise InvalidRequest(
            f"The prompt has {prompt_tokens} tokens and `max_tokens` is {asked}: "
            f"together they exceed the {options.context_tokens_max} tokens of this model's context.",
            "context_length",
        )
    run = _Run(
        key=request.key,
        number=request.run,
        seed_key=output_key(prompt, seed),
        prompt_tokens=prompt_tokens,
        tokens_max=limit,
        end_reason="length" if asked or limit < natural else "stop",
        stops=[body.stop] if isinstance(body.stop, str) else body.stop or [],
        faults=body.penstock_fault,
    )
    if request.prefix is not None:
        run.replay(request.prefix)
    return run


def _prefill_s(run: _Run, options: SimulatorOptions) -> float:
    """Until the first token; what is complete already needs none."""
    if run.finish_reason is not None:
        return 0.0
    prefill_s = run.prompt_tokens / options.prefill_tps if options.prefill_tps else 0.0
    return (options.ttft_ms / 1e3 + prefill_s) * options.faults.slow_factor * run.faults.slow_factor


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may become `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
