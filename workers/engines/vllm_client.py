"""Stands between vLLM's serving layer and its engine: here the token ids of a request are seen, and its seed, its limit
and its prefix put in. The serving layer above knows nothing of it, so all that it does stays exactly what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Protocol

from workers.engines.base import Prefix
from workers.engines.seeds import seed_of
from workers.engines.vllm_continue import RESERVED, forced, is_readable, read_until

YIELD_EVERY = 16
"""Tokens that are read again by the serving layer's parsers before other requests get a turn."""


class Watcher(Protocol):
    """A run, as its stream of outputs sees it."""

    rid: str
    prefix: Prefix | None
    tokens_max: int

    def next_choice(self, count: int) -> int:
        """The first choice of the next of its prompts, which has `count` of them."""
        ...

    def note(self, ids: list[tuple[int, list[int]]], *, is_last: bool) -> None:
        """The engine made these tokens, of these choices."""
        ...

    def passed(self) -> None:
        """The serving layer has put out all that it makes of them for now."""
        ...


current: ContextVar[Watcher] = ContextVar("vllm_run")
"""The run that the serving layer works on in this task."""


class EngineClient:
    """vLLM's engine, with `generate` watched."""

    def __init__(self, engine: Any, *, can_force: bool) -> None:
        from vllm.sampling_params import SamplingParams

        self._engine = engine
        self._can_force = can_force
        self._default = _fields(SamplingParams())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **more: Any
    ) -> AsyncGenerator[Any, None]:
        """The outputs of a request, as vLLM's own engine yields them."""
        run = current.get()
        params = sampling_params.clone()
        if run.tokens_max:
            params.max_tokens = min(run.tokens_max, params.max_tokens or run.tokens_max)
        # A completion of several prompts comes here once for each, in their order.
        first = run.next_choice(params.n)
        can_read = is_readable(_fields(params), self._default)
        if params.extra_args:
            params.extra_args = {
                key: value for key, value in params.extra_args.items() if key != RESERVED
            } or None
        if params.seed is None and params.temperature > 0:
            params.seed = seed_of(run.rid) + first
        if run.prefix is None or not self._can_force:
            # Without a processor to force it, what the log has is made once more: the seed is the same.
            return self._watched(run, first, prompt, params, request_id, more)
        if can_read and prompt.get("type") == "token":
            return self._reading(run, first, run.prefix.ids_of(first), prompt, params, request_id, more)
        prefixes = [run.prefix.ids_of(choice) for choice in range(first, first + params.n)]
        return self._watched(run, first, prompt, _forcing(params, prefixes), request_id, more)

    async def _reading(
        self,
        run: Watcher,
        first: int,
        ids: list[int],
        prompt: Any,
        params: Any,
        request_id: str,
        more: Mapping[str, Any],
    ) -> AsyncGenerator[Any, None]:
        """Prompt and prefix are read at once. The serving layer still gets the outputs of the whole request: what was
        read is told to it first, as the engine would have."""
        from vllm.outputs import CompletionOutput, RequestOutput

        prompt_ids = prompt["prompt_token_ids"]
        pieces = self._pieces(prompt_ids, params, request_id, ids)
        read = read_until(pieces)
        for index in range(read):
            made = CompletionOutput(0, pieces[index], [ids[index]], None, None)
            run.note([(first, [ids[index]])], is_last=False)
            yield RequestOutput(request_id, None, prompt_ids, None, [made], False)
            run.passed()
            if index % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        params.max_tokens -= read
        longer = {**prompt, "prompt_token_ids": [*prompt_ids, *ids[:read]]}
        outputs = self._watched(run, first, longer, _forcing(params, [ids[read:]]), request_id, more)
        try:
            async for output in outputs:
                if output.prompt_token_ids is not None:
                    output.prompt_token_ids = prompt_ids
                yield output
        finally:
            await outputs.aclose()

    async def _watched(
        self, run: Watcher, first: int, prompt: Any, params: Any, request_id: str, more: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        outputs = self._engine.generate(prompt, params, request_id, **more)
        try:
            async for output in outputs:
                ids = [(first + made.index, list(made.token_ids)) for made in output.outputs]
                run.note(ids, is_last=output.finished)
                yield output
                run.passed()
        finally:
            await outputs.aclose()

    def _pieces(self, prompt_ids: list[int], params: Any, request_id: str, ids: list[int]) -> list[str]:
        """The text that each token releases."""
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        request = SimpleNamespace(
            request_id=request_id,
            sampling_params=params,
            prompt_token_ids=prompt_ids,
            prompt_embeds=None,
        )
        detokenizer = IncrementalDetokenizer.from_new_request(self._engine.tokenizer, request)
        pieces = []
        for token in ids:
            detokenizer.update([token], False)
            pieces.append(detokenizer.get_next_output_text(False, True))
        return pieces


def _forcing(params: Any, prefixes: list[list[int]]) -> Any:
    params.extra_args = {**(params.extra_args or {}), RESERVED: forced(params.seed or 0, prefixes)}
    return params


def _fields(params: Any) -> dict[str, object]:
    return {name: getattr(params, name) for name in params.__struct_fields__}
