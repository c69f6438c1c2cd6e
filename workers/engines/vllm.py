"""vLLM in this process: its engine, and its own serving layer without a socket.

Templates, tool and reasoning parsers, logprobs, limits and error messages are vLLM's: a request goes through the same
code as one to `vllm serve`. The serving layer's stream becomes events (`vllm_serving`, `vllm_run`), the engine below it
is watched for token ids (`vllm_client`), and a continued request is brought to where it was (`vllm_continue`,
`vllm_prefix`).
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import msgspec
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric

from infra.logs import get_logger
from infra.settings import Settings
from schemas.errors import PenstockError
from schemas.requests import RequestMeta
from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFailed,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from workers.engines.vllm_client import EngineClient
from workers.engines.vllm_run import Run
from workers.engines.vllm_serving import Serving
from workers.engines.vllm_start import Loader, Started, revision_of, serving_state, tokenizer_of, words_of

STEP_S_MAX = 60.0
"""A new shape or feature may make vLLM compile in the middle of serving: 16 s were seen on a CPU."""

CPU_STEP_S_MAX = 300.0
"""A whole prompt is one step there: some ten thousand tokens, at some hundred a second."""

WARM_UP: list[dict[str, object]] = [
    {"temperature": 0},
    {"temperature": 1, "n": 2, "logprobs": 2, "seed": 1},
    {"temperature": 1, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "presence_penalty": 0.5, "min_tokens": 2},
    {"temperature": 0, "response_format": {"type": "json_object"}},
]
"""What compiles or loads something at its first use."""


log = get_logger("vllm")


class VllmDied(PenstockError):
    """vLLM's engine process ended. Look at what it logged; the supervisor starts the worker again."""


class Vllm:
    """The engine. A task per request reads the serving layer's stream."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._words = words_of(settings)
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._steps = 0
        self._last_step_at = 0.0
        self._is_stopped = False
        self._loader = Loader()
        self._started: Started
        self._serving: Serving
        self._context_tokens_max = 0
        self._sink: Callable[[EngineEvent], None]
        self._loop: asyncio.AbstractEventLoop

    async def start(self, sink: Callable[[EngineEvent], None]) -> Capabilities:
        """Loads the model and runs what is slow the first time. Raises SettingsError, and what vLLM raises."""
        self._loop = asyncio.get_running_loop()
        self._started = started = await self._loader.load(self._settings, self._on_step)
        config = started.config
        self._context_tokens_max = int(config.model_config.max_model_len)
        client = EngineClient(started.engine, can_force=started.can_force)
        self._serving = Serving(await serving_state(started, client), self._settings.model)
        await self._warm_up()
        self._sink = sink
        return Capabilities(
            engine="vllm",
            revision=revision_of(self._settings, started),
            tokenizer=tokenizer_of(started),
            context_tokens_max=self._context_tokens_max,
            max_tokens_default=min(
                self._settings.max_tokens_default or self._context_tokens_max, self._context_tokens_max
            ),
            slots=int(config.scheduler_config.max_num_seqs),
            adapters=self._words.adapters,
            step_s_max=CPU_STEP_S_MAX if started.is_cpu else STEP_S_MAX,
        )

    def submit(self, request: EngineRequest) -> None:
        """Starts the request's task."""
        assert request.key not in self._runs, "one run of a request at a time"
        limit = request.meta.max_tokens
        run = Run(request, limit if limit < self._context_tokens_max else 0, self._tell)
        task = self._loop.create_task(self._serving.serve(run, request), name=f"vllm {run.rid}")
        self._runs[request.key] = run, task
        self._tasks[task] = None
        task.add_done_callback(partial(self._on_done, run))

    def cancel(self, key: str) -> None:
        """Ends the request's task, which makes vLLM abort what it runs for it."""
        running = self._runs.pop(key, None)
        if running is not None:
            run, task = running
            run.is_over = True
            task.cancel()

    def load(self) -> EngineLoad:
        """Steps are those of vLLM's scheduler, the chunks of a prefill included."""
        return EngineLoad(len(self._runs), self._steps, self._last_step_at)

    async def metrics(self) -> list[Metric]:
        """vLLM registers its own in this process."""
        return [family for family in REGISTRY.collect() if family.name.startswith("vllm:")]

    async def wait(self) -> None:
        """Raises when vLLM's engine process has died: the task that hears from it ends then."""
        await asyncio.wait([self._started.engine.output_handler])
        if not self._is_stopped:
            raise VllmDied("vLLM's engine process has ended")

    async def stop(self) -> None:
        """Aborts what runs, then ends vLLM's processes."""
        self._is_stopped = True
        for key in list(self._runs):
            self.cancel(key)
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._loader.end()

    def _on_step(self) -> None:
        self._steps += 1
        self._last_step_at = self._loop.time()

    def _tell(self, event: EngineEvent) -> None:
        if self._started.engine.errored:
            return  # the requests of a dead engine end with the worker, and are continued by another one
        if not isinstance(event, EngineOutput):
            _, task = self._runs.pop(event.key)
            if isinstance(event, EngineFailed):
                task.cancel()  # vLLM may know nothing of it: an answer that differs from the log is fine with it
        self._sink(event)

    def _on_done(self, run: Run, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            told = self._serving.error_of(error)
            if told.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                # The log of the request keeps one sentence; whoever mends it needs to see where it was raised, but not
                # its message, which may repeat the prompt.
                where = "".join(traceback.format_tb(error.__traceback__))
                log.error(
                    "a request failed inside vLLM",
                    tenant=run.tenant,
                    rid=run.rid,
                    error=type(error).__name__,
                    where=where,
                )
            run.fail(told)

    async def _warm_up(self) -> None:
        """Raises if vLLM cannot run what it should: better now than with the first client's request."""
        bodies: list[dict[str, object]] = [{"input": "a"}]
        if self._serving.makes_tokens:
            bodies = [{"prompt": "a", "max_tokens": 4, **extra} for extra in WARM_UP]
        ended: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._sink = ended.put_nowait
        for number, body in enumerate(bodies):
            self.submit(EngineRequest(f"warmup.{number}", 0, msgspec.json.encode(body), RequestMeta()))
            while isinstance(event := await ended.get(), EngineOutput):
                continue
            if isinstance(event, EngineFailed) and event.reason == "engine_error":
                raise VllmDied(f"vLLM cannot run a simple request: {event.error}")
