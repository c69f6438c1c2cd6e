"""Any OpenAI-compatible server as an engine: vLLM, llama-server, Ollama, LM Studio, TGI, SGLang, a cloud.

Here is only HTTP; what an answer means, when to ask again and how chunks become events is decided in `upstream_run`
and the modules it uses.

A server that is away keeps its requests: they wait here, each in its slot, so that the scheduler gives this worker no
more than the server takes, until the server is back or their time is over. To the worker's watch such waiting counts as
steps: nothing hangs, and a restart of the worker would bring nothing but strikes against requests that did no harm. A
server that has a request and says nothing is knocked at every `KNOCK_S`; while it answers it is slow, not hung. When it
does not for `SILENT_S` its requests are taken from it, and wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx
import stamina
from prometheus_client.metrics_core import Metric

from infra.logs import get_logger
from schemas.errors import PenstockError
from workers.engine_page import SaysNothing, read_page
from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFailed,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from workers.engines.upstream_call import BadBody, Call, Upstream
from workers.engines.upstream_card import capabilities, find, models_of, not_ready, tells_ids
from workers.engines.upstream_run import Move, Run, Wait

CONNECT_S = 5.0
WRITE_S = 30.0
KNOCK_S = 5.0
"""A silent server is knocked at this often, and has as long to answer."""

RECONNECT_S = 5.0
"""The longest wait between two looks at a server that is not there yet when the worker starts."""

DRAIN_S = 1.0
"""How long the end of a complete answer is waited for, to use its connection again."""

ERROR_BYTES_MAX = 64 << 10
MODELS_BYTES_MAX = 4 << 20

LOOPBACK = ("127.0.0.1", "::1", "localhost")

AGAIN = Wait(0.0, "that was not the answer yet")

log = get_logger("upstream")


class UpstreamAway(PenstockError):
    """The server does not serve yet. It is asked again; look whether it runs, and at the setting `upstream`."""


class UpstreamRefused(PenstockError):
    """The server does not accept the key: look at the setting `upstream_api_key`."""


@dataclass(frozen=True)
class OpenAIOptions:
    """The settings of the same names; `model` is the one clients know, `api_key` may be empty."""

    upstream: str
    model: str
    upstream_model: str
    api_key: str
    parallel: int
    max_tokens_default: int


class OpenAIEngine:
    """The engine: a task for each request, and one that knocks at a silent server."""

    def __init__(self, options: OpenAIOptions) -> None:
        self._options = options
        self._name = options.upstream_model or options.model
        self._base = httpx.URL(options.upstream)
        self._client = _client(self._base, options)
        self._base = self._base.copy_with(
            username=None, password=None, path=self._base.path.rstrip("/"), fragment=None
        )
        self._upstream = Upstream(self._name, options.max_tokens_default)
        self._context_tokens_max = 0
        self._refused: dict[str, None] = {}
        self._asks: dict[str, _Ask] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._steps = 0
        self._heard_at = self._last_step_at = 0.0
        self._sink: Callable[[EngineEvent], None]
        self._knock_path = "health"
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, sink: Callable[[EngineEvent], None]) -> Capabilities:
        """Waits until the server serves; stamina says in the log why it does not yet."""
        self._sink = sink
        async for attempt in stamina.retry_context(
            on=UpstreamAway, attempts=None, timeout=None, wait_max=RECONNECT_S
        ):
            with attempt:
                listed = await self._look()
        models = models_of(listed)
        model = find(models, self._name)
        if model is None or model.id != self._name:
            # Many servers take names that they do not list; a wrong path looks the same from here.
            log.warning("the upstream does not list this model", model=self._name, listed=len(models))
        self._upstream = Upstream(self._name, self._options.max_tokens_default, tells_ids(model))
        can = capabilities(
            str(self._base.copy_with(query=None)),
            self._name,
            model,
            slots=self._options.parallel,
            max_tokens_default=self._options.max_tokens_default,
        )
        self._context_tokens_max = can.context_tokens_max
        self._spawn(self._watch())
        return can

    def submit(self, request: EngineRequest) -> None:
        """Begins to ask; a body that cannot be asked fails at once."""
        ask = _Ask(request)
        self._asks[request.key] = ask
        ask.task = self._spawn(self._serve(ask))

    def cancel(self, key: str) -> None:
        """Closes the connection, which is what tells the server to stop."""
        ask = self._asks.pop(key, None)
        if ask is not None:
            ask.task.cancel()

    def load(self) -> EngineLoad:
        """Whatever is heard of the server is a step, and so is a round of waiting for it."""
        return EngineLoad(len(self._asks), self._steps, self._last_step_at)

    async def metrics(self) -> list[Metric]:
        """Those that the server shows at `/metrics`. Raises SaysNothing."""
        try:
            status, page = await self._get("metrics")
        except httpx.HTTPError as error:
            raise SaysNothing(_say(error)) from None
        if status != 200:
            raise SaysNothing(f"/metrics answers {status}")
        return await read_page(page.decode(errors="replace"))

    async def wait(self) -> None:
        """Returns when stopped; raises what a task died of."""
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Closes all connections."""
        self._asks.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._client.aclose()
        if not self._ended.done():
            self._ended.set_result(None)

    # One request.

    async def _serve(self, ask: _Ask) -> None:
        try:
            call = Call(ask.request, self._upstream)
        except BadBody as error:
            self._tell(ask, [EngineFailed(ask.request.key, ask.request.run, str(error), "bad_request")])
            return
        run = ask.asked = Run(ask.request, call, self._context_tokens_max, self._refused)
        move: Move | None = run.cannot() or await self._try(ask, run)
        while isinstance(move, Wait):
            say = log.debug if ask.has_waited else log.info
            say("asks again", rid=ask.rid, wait_s=round(move.delay_s, 3), why=move.why)
            ask.has_waited = True
            self._step()
            await asyncio.sleep(move.delay_s)
            move = await self._try(ask, run)
        if move is not None:
            self._tell(ask, [move])

    async def _try(self, ask: _Ask, run: Run) -> Move | None:
        """Asks once. None: the run has told its end."""
        headers = {"traceparent": run.traceparent} if run.traceparent else {}
        url = self._url(run.path)
        try:
            async with asyncio.timeout(None) as ask.patience:
                content = run.ask(self._now())
                async with self._client.stream("POST", url, content=content, headers=headers) as response:
                    self._hear()
                    if response.status_code == 200:
                        run.accepted()
                        return await self._relay(ask, run, response)
                    body = await _start_of(response, ERROR_BYTES_MAX)
                    return run.refused(response.status_code, _lower(response.headers), body, random.random())
        except TimeoutError:
            return None if ask.is_over else run.unreachable("it fell silent", random.random())
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return run.unreachable(_say(error), random.random())
        except httpx.HTTPError as error:
            return None if ask.is_over else run.broke(_say(error), random.random())

    async def _relay(self, ask: _Ask, run: Run, response: httpx.Response) -> Wait | None:
        async for data in response.aiter_bytes():
            self._hear()
            if ask.is_over:
                continue
            self._tell(ask, run.read(data))
            if run.asks_again:
                return AGAIN
            if ask.is_over:
                ask.patience.reschedule(self._now() + DRAIN_S)
        if not ask.is_over:
            self._tell(ask, run.end())
        return AGAIN if run.asks_again else None

    def _tell(self, ask: _Ask, events: list[EngineEvent]) -> None:
        """What the sink does about an event may be a call of `submit` or `cancel`."""
        for event in events:
            if self._asks.get(ask.request.key) is not ask:
                return
            if not isinstance(event, EngineOutput):
                ask.is_over = True
                del self._asks[ask.request.key]
            self._sink(event)

    # The server.

    async def _look(self) -> bytes:
        """The list of models of a server that serves. Raises UpstreamAway or UpstreamRefused."""
        try:
            health, _ = await self._get("health")
            status, listed = await self._get("models")
        except httpx.HTTPError as error:
            raise UpstreamAway(_say(error)) from None
        why = not_ready(health, status)
        if why:
            raise UpstreamAway(why)
        if status == 401:
            raise UpstreamRefused("the upstream answers 401: check the setting upstream_api_key")
        self._knock_path = "health" if health == 200 else "models"
        return listed

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(KNOCK_S)
            if not self._asks:
                continue
            if any(ask.asked is None or ask.asked.asked_at is None for ask in self._asks.values()):
                self._step()
            if self._now() - self._heard_at >= KNOCK_S:
                await self._knock()
            now = self._now()
            for ask in self._asks.values():
                if ask.asked is not None and ask.asked.desert(self._heard_at, now):
                    ask.patience.reschedule(now)

    async def _knock(self) -> None:
        try:
            status, _ = await self._get(self._knock_path)
            if status < 500:
                self._hear()
        except httpx.HTTPError as error:
            log.warning("the upstream does not answer", why=_say(error), waiting=len(self._asks))

    async def _get(self, path: str) -> tuple[int, bytes]:
        async with self._client.stream("GET", self._url(path), timeout=KNOCK_S) as response:
            return response.status_code, await _start_of(response, MODELS_BYTES_MAX)

    def _url(self, path: str) -> httpx.URL:
        """`/health` and `/metrics` are outside of the API's `/v1`."""
        outside = path in ("health", "metrics")
        base = self._base.path.removesuffix("/v1") if outside else self._base.path
        return self._base.copy_with(path=f"{base}/{path}")

    def _hear(self) -> None:
        self._heard_at = self._now()
        self._step()

    def _step(self) -> None:
        self._steps += 1
        self._last_step_at = self._now()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)


class _Ask:
    """A request here: its task, and the patience with the connection it has. `asked` is None until it has begun."""

    task: asyncio.Task[None]
    patience: asyncio.Timeout

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.asked: Run | None = None
        self.is_over = False
        self.has_waited = False

    @property
    def rid(self) -> str:
        return self.request.key.rpartition(".")[2]


def _client(base: httpx.URL, options: OpenAIOptions) -> httpx.AsyncClient:
    headers = {"accept-encoding": "identity", "content-type": "application/json", "user-agent": "penstock"}
    if options.api_key:
        headers["authorization"] = f"Bearer {options.api_key}"
    return httpx.AsyncClient(
        headers=headers,
        auth=(base.username, base.password) if base.username else None,
        timeout=httpx.Timeout(None, connect=CONNECT_S, write=WRITE_S),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=options.parallel),
        # A proxy that the environment names is for the world outside.
        trust_env=base.host not in LOOPBACK,
    )


async def _start_of(response: httpx.Response, bytes_max: int) -> bytes:
    """A body that has to be short."""
    body = bytearray()
    async for data in response.aiter_bytes():
        body += data
        if len(body) >= bytes_max:
            break
    return bytes(body[:bytes_max])


def _lower(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
