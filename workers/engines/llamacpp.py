"""llama.cpp in this process: GGUF models on CPU or GPU, with continuous batching, by the package `xllamacpp`.

Its C++ server takes OpenAI's bodies as they are, so templates, tool calls, reasoning and grammars are its own code.
Each request is one call that blocks until its end, in a thread of its own; what the server says on the way comes by a
callback in that thread, which hands it to the event loop and answers whether to go on. Only the loop touches state.

The log has no token ids: a chunk of llama.cpp tells none, and characters of several tokens come as one. So a request
is continued by making it once more with the same seed, comparing with what the log has, and dropping it. Roundings may
have moved meanwhile (a prompt that was cached, other requests in the batch): plain text is then made to begin with
what the log has, by a grammar, and goes on from there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import xllamacpp
from prometheus_client.metrics_core import Metric

from infra.engine_settings import EngineSettings
from infra.settings import SettingsError
from schemas.errors import PenstockError
from schemas.output import Delta, Usage
from workers.engine_page import read_page
from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineLoad,
    EngineOutput,
    EngineRequest,
    FailReason,
    Prefix,
)
from workers.engines.llamacpp_body import BadBody, LlamaBody, beginning_with, llama_body
from workers.engines.llamacpp_chunks import Chunk, Totals, decode_chunk
from workers.engines.llamacpp_file import BadModelFile, read_model_file, sample_hash
from workers.engines.llamacpp_params import revision_of, server_params
from workers.engines.replay import Differs, Replay

STEP_S_MAX = 120.0
"""One step of a prefill is up to `BATCH_TOKENS`, of which a large model on a small CPU reads five a second. An image is
read in one step too, and the library says nothing while it is."""

SILENCE_S = 0.5
"""After this long without output the server is asked how many steps it made: its parser of tool calls holds text back,
and calls nobody while it does."""

STOP_S = 5.0
"""Requests that are dropped at the end return with their next token; a hung one is left behind."""

STEPS_METRIC = "llamacpp:n_decode_total "

NOT_EMBEDDING = "`input`: this model makes text, not embeddings"
ONLY_EMBEDDING = "`messages`, `prompt`: this model makes embeddings: send `input`"

CXX_ERRORS = (ArithmeticError, IndexError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""What the binding makes of C++ exceptions."""

T = TypeVar("T")


class LlamaDied(PenstockError):
    """llama.cpp's server does not answer any more. Look at what it wrote to standard error."""


@dataclass
class _Run:
    """One request while it runs. Its thread reads `is_cancelled`, and nothing else."""

    key: str
    number: int
    body: LlamaBody
    prefix: Prefix | None
    replay: Replay
    totals: Totals
    has_begun: bool = False
    has_put_out: bool = False
    is_cancelled: bool = False


class LlamaCpp:
    """The engine. A thread per request: the worker's slots bound them."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._runs: dict[str, _Run] = {}
        self._calls: dict[asyncio.Future[Any], None] = {}
        self._server: Any = None
        self._steps = 0
        self._last_step_at = 0.0
        self._decoded: str | None = None
        self._max_tokens = 0
        self._embeds = False
        self._loop: asyncio.AbstractEventLoop
        self._sink: Callable[[EngineEvent], None]
        self._busy = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def start(self, sink: Callable[[EngineEvent], None]) -> Capabilities:
        """Loads the model and runs it once. Raises SettingsError for a file that is none."""
        settings, self._sink = self._settings, sink
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        try:
            model = read_model_file(Path(settings.model))
            projector = sample_hash(Path(settings.mmproj)) if settings.mmproj else ""
        except (OSError, BadModelFile) as error:
            raise SettingsError(
                f"bad setting model={settings.model!r} or mmproj={settings.mmproj!r}: {error}"
            ) from None
        trained = model.context_tokens or settings.ctx_size
        context = min(settings.ctx_size or trained, trained)
        if not context:
            raise SettingsError(f"the file of model={settings.model!r} names no context: set ctx_size")
        params = server_params(settings, model, context)
        try:
            self._server = await self._aside(partial(xllamacpp.Server, params))
        except RuntimeError as error:
            raise SettingsError(f"llama.cpp cannot load model={settings.model!r}: {error}") from None
        self._embeds = model.embeds
        self._max_tokens = min(settings.max_tokens_default or context, context)
        self._watch = asyncio.create_task(self._watch_steps(), name="llama.cpp steps")
        return Capabilities(
            engine="llamacpp",
            name=model.name,
            revision=revision_of(settings, model, projector, context),
            tokenizer=model.tokenizer,
            context_tokens_max=context,
            max_tokens_default=self._max_tokens,
            slots=settings.parallel,
            step_s_max=STEP_S_MAX,
        )

    def submit(self, request: EngineRequest) -> None:
        """Starts the request's thread; a body that cannot be run fails right after."""
        rid = request.key.rpartition(".")[2]
        try:
            body = llama_body(request.body, rid=rid, max_tokens=request.meta.max_tokens or self._max_tokens)
            if (body.call == "embeddings") != self._embeds:
                raise BadBody(NOT_EMBEDDING if body.call == "embeddings" else ONLY_EMBEDDING)
        except BadBody as error:
            failed = EngineFailed(request.key, request.run, str(error), "bad_request")
            self._loop.call_soon(self._sink, failed)
            return
        self._begin(request.key, request.run, body, request.prefix)

    def cancel(self, key: str) -> None:
        """The server is told with the next piece of output; what comes until then is dropped."""
        run = self._runs.pop(key, None)
        if run is not None:
            run.is_cancelled = True

    def load(self) -> EngineLoad:
        """Requests that run; steps are pieces of output, or of prefill, or decodes where nothing is put out."""
        return EngineLoad(len(self._runs), self._steps, self._last_step_at)

    async def metrics(self) -> list[Metric]:
        """Those of its server. Raises SaysNothing."""
        return await read_page(await self._metrics_text())

    async def wait(self) -> None:
        """Returns when stopped. An error inside the server ends the whole process, as C++ has it; raises LlamaDied if
        it lives on without answering."""
        assert self._watch is not None, "wait for an engine that was started"
        await asyncio.wait([self._watch])
        if not self._watch.cancelled():
            self._watch.result()

    async def stop(self) -> None:
        """Drops what runs, waits for the threads, and frees the device."""
        for key in list(self._runs):
            self.cancel(key)
        if self._watch is not None:
            self._watch.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=STOP_S)
        if self._server is not None:
            last = [self._server]
            self._server = None
            # The destructor joins the server's thread.
            await asyncio.wait([self._aside(last.clear)], timeout=STOP_S)

    def _begin(self, key: str, number: int, body: LlamaBody, prefix: Prefix | None) -> None:
        run = _Run(
            key, number, body, prefix, Replay(prefix, has_ids=False), Totals(body.choices, body.of_each)
        )
        self._runs[key] = run
        call = self._embed if body.call == "embeddings" else self._generate
        future = self._aside(partial(call, self._server, run))
        self._calls[future] = None
        future.add_done_callback(partial(self._on_return, run))
        self._busy.set()

    def _generate(self, server: Any, run: _Run) -> None:
        """In the request's thread."""

        def on_chunk(data: bytes) -> bool:
            self._call_soon(partial(self._on_chunk, run, data))
            return run.is_cancelled

        getattr(server, f"handle_{run.body.call}")(run.body.body, on_chunk)

    def _embed(self, server: Any, run: _Run) -> bytes:
        """In the request's thread."""
        answer = server.handle_embeddings(run.body.body.decode())
        return answer if isinstance(answer, bytes) else str(answer).encode()

    def _on_chunk(self, run: _Run, data: bytes) -> None:
        self._step()
        run.has_begun = True
        if run.is_cancelled:
            return
        try:
            chunk = decode_chunk(data)
        except msgspec.DecodeError as error:
            self._fail(run, f"llama.cpp says what nobody understands: {error}", "engine_error")
            return
        if chunk.error is not None:
            self._fail(run, chunk.error.message, chunk.error.reason)
            return
        run.totals.add(chunk)
        try:
            self._put_out(run, chunk)
        except Differs as error:
            self._on_differs(run, error)

    def _put_out(self, run: _Run, chunk: Chunk) -> None:
        for delta in chunk.deltas(shows_top=run.body.shows_top):
            made = run.replay.take([0], [delta], [delta.choice] if delta.choice else [])
            if made is not None:
                run.has_put_out = True
                self._sink(EngineOutput(run.key, run.number, made.ids, made.deltas, made.of))

    def _on_return(self, run: _Run, future: asyncio.Future[bytes | None]) -> None:
        """The call is over: by its end, by an exception, or because it was cancelled."""
        del self._calls[future]
        error = future.exception()
        if run.is_cancelled:
            return
        if error is not None:
            self._fail(run, str(error), _reason_of(error, run))
            return
        answer = future.result()
        if answer is not None:
            self._finish_embedding(run, answer)
            return
        sums = run.totals.sums()
        if sums is None:
            self._fail(run, "llama.cpp ended the request early", "engine_error")
            return
        try:
            held = run.replay.finish()
        except Differs as differs:
            self._on_differs(run, differs)
            return
        self._finish(run, *sums, held)

    def _on_differs(self, run: _Run, error: Differs) -> None:
        """Once more from the start, if its text can be forced."""
        text = _forcible_text(run)
        if text is None:
            self._fail(run, str(error), "not_continuable")
            return
        self._drop(run)
        self._begin(run.key, run.number, beginning_with(run.body, text), run.prefix)

    def _finish_embedding(self, run: _Run, answer: bytes) -> None:
        self._step()
        chunk = decode_chunk(answer)
        if chunk.error is not None:
            self._fail(run, chunk.error.message, chunk.error.reason)
            return
        usage = Usage(chunk.usage.prompt_tokens if chunk.usage is not None else 0, 0)
        self._drop(run)
        self._sink(EngineFinished(run.key, run.number, [], usage, result=msgspec.Raw(answer)))

    def _finish(self, run: _Run, reasons: list[str], usage: Usage, held: list[Delta]) -> None:
        self._drop(run)
        ids = [0] if held else []
        self._sink(EngineFinished(run.key, run.number, reasons, usage, ids, held))

    def _fail(self, run: _Run, error: str, reason: FailReason) -> None:
        self._drop(run)
        self._sink(EngineFailed(run.key, run.number, error, reason))

    def _drop(self, run: _Run) -> None:
        """It is over for us; its thread ends with its next piece, if it has not."""
        run.is_cancelled = True
        del self._runs[run.key]

    def _step(self) -> None:
        self._steps += 1
        self._last_step_at = self._loop.time()

    async def _watch_steps(self) -> None:
        """While requests run and say nothing, counts the decodes that the server made."""
        while True:
            if not self._runs:
                self._busy.clear()
            await self._busy.wait()
            await asyncio.sleep(SILENCE_S)
            if self._loop.time() - self._last_step_at < SILENCE_S:
                continue
            text = await self._metrics_text()
            counts = [line for line in text.splitlines() if line.startswith(STEPS_METRIC)]
            if not counts:
                raise LlamaDied(f"llama.cpp tells no metrics: {text[:200]}")
            if counts[0] != self._decoded:
                self._decoded = counts[0]
                self._step()

    async def _metrics_text(self) -> str:
        metrics = await self._aside(self._server.handle_metrics)
        return metrics.decode() if isinstance(metrics, bytes) else str(metrics)

    def _aside(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Runs what blocks in a thread of its own, which a process that ends does not wait for."""
        future: asyncio.Future[T] = self._loop.create_future()

        def work() -> None:
            result: T | None = None
            error: Exception | None = RuntimeError("a bug: see the traceback of this thread")
            try:
                result, error = call(), None
            except CXX_ERRORS as caught:
                error = caught
            finally:
                self._call_soon(partial(_settle, future, result, error))

        threading.Thread(target=work, name="llama.cpp call", daemon=True).start()
        return future

    def _call_soon(self, callback: Callable[[], object]) -> None:
        # A loop that is closed has nobody left who waits: the process is on its way out.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)


def _settle(future: asyncio.Future[T], result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _forcible_text(run: _Run) -> str | None:
    """What the log has, where it is nothing but text that a model can have said. A mark stands for bytes that were no
    character: which ones, nobody knows any more."""
    if run.prefix is None or run.has_put_out or not run.body.is_plain or len(run.prefix.choices) > 1:
        return None
    text = "".join(choice.text for choice in run.prefix.choices)
    is_text = all(not (choice.thoughts or choice.tools) for choice in run.prefix.choices)
    return text if is_text and text and "\N{REPLACEMENT CHARACTER}" not in text else None


def _reason_of(error: BaseException, run: _Run) -> FailReason:
    """Before the first word the server only reads the body: what it throws then is about that."""
    if run.has_begun or isinstance(error, MemoryError | OSError):
        return "engine_error"
    return "bad_request"
