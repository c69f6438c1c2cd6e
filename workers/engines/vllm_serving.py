"""Requests in the bytes that the client sent, given to vLLM's own serving layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from schemas.output import Usage
from workers.engines.base import EngineRequest
from workers.engines.vllm_chunks import Chunk, StreamError, chat_chunks, completion_chunks
from workers.engines.vllm_client import current
from workers.engines.vllm_run import Run

OURS = "penstock_"
"""What begins like this in a body is for us and not for vLLM."""

VALIDATION_ERRORS_MAX = 3
"""Of a body with many mistakes, as many are told: one bad list may make thousands."""


class Serving:
    """vLLM's serving layer for one model; which parts of it there are depends on what the model can do."""

    def __init__(self, state: Any, model: str) -> None:
        self._model = model
        self._chat: Any = getattr(state, "openai_serving_chat", None)
        self._completion: Any = getattr(state, "openai_serving_completion", None)
        self._embedding: Any = getattr(state, "serving_embedding", None)

    @property
    def makes_tokens(self) -> bool:
        """Whether the model generates."""
        return self._completion is not None

    @staticmethod
    def error_of(error: BaseException) -> StreamError:
        """What vLLM's server would have answered to an exception of its serving layer."""
        from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

        told = create_error_response(error).error
        return StreamError(told.message, told.type, int(told.code))

    async def serve(self, run: Run, request: EngineRequest) -> None:
        """Runs a request to its end."""
        current.set(run)
        try:
            body = _object.decode(request.body)
        except msgspec.DecodeError as error:
            run.fail(_bad(f"the body is no JSON object: {error}"))
            return
        body = {name: value for name, value in body.items() if not name.startswith(OURS)}
        body.setdefault("model", self._model)
        if body.get("use_beam_search"):
            run.fail(_bad("beam search makes no stream of tokens: leave use_beam_search out"))
            return
        try:
            if "messages" in body:
                await self._serve_chat(run, body)
            elif "prompt" in body:
                await self._serve_completion(run, body)
            elif "input" in body:
                await self._serve_embedding(run, body)
            else:
                run.fail(_bad("one of messages, prompt and input must be there"))
        except ValidationError as error:
            run.fail(_bad(_sentence(error)))

    async def _serve_chat(self, run: Run, body: dict[str, Any]) -> None:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        if self._chat is None:
            run.fail(_bad(f"The model {self._model} does not chat"))
            return
        if body.get("max_completion_tokens") is not None or body.get("max_tokens") is not None:
            run.tokens_max = 0
        request = ChatCompletionRequest.model_validate(_streamed(body, run.rid))
        answer = await self._chat.create_chat_completion(request)
        if await _relayed(run, answer, chat_chunks):
            run.finish(partial(self._count_reasoning, request))

    def _count_reasoning(self, request: Any, ids: list[int]) -> int:
        """As for an answer that is not streamed: by a parser that sees all of it at once."""
        arguments = self._chat._effective_chat_template_kwargs(request)
        parser = self._chat._make_parser(request, self._chat.renderer.tokenizer, arguments)
        return int(parser.count_reasoning_tokens(ids))

    async def _serve_completion(self, run: Run, body: dict[str, Any]) -> None:
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        if self._completion is None:
            run.fail(_bad(f"The model {self._model} makes no text"))
            return
        if body.get("max_tokens") is not None:
            run.tokens_max = 0
        request = CompletionRequest.model_validate(_streamed(body, run.rid))
        answer = await self._completion.create_completion(request)
        if await _relayed(run, answer, completion_chunks):
            run.finish()

    async def _serve_embedding(self, run: Run, body: dict[str, Any]) -> None:
        from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest

        if self._embedding is None:
            run.fail(_bad(f"The model {self._model} makes no embeddings"))
            return
        request: Any = TypeAdapter(EmbeddingRequest).validate_python({**body, "request_id": run.rid})
        answer = await self._embedding(request)
        if _refused(run, answer):
            return
        document = bytes(answer.body)
        used = _used.decode(document).usage
        run.answer(msgspec.Raw(document), Usage(used.prompt_tokens, 0))


class _Used(msgspec.Struct):
    prompt_tokens: int = 0


class _Embedded(msgspec.Struct):
    usage: _Used


_object = msgspec.json.Decoder(dict[str, Any])
_used = msgspec.json.Decoder(_Embedded)


def _streamed(body: dict[str, Any], rid: str) -> dict[str, Any]:
    """What every reader of the log gets its answer from, whatever form the client asked for."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}, "request_id": rid}


async def _relayed(run: Run, answer: Any, chunks_of: Callable[[str], list[Chunk]]) -> bool:
    """Whether there was a stream, and it has come to its end."""
    if _refused(run, answer):
        return False
    async for event in answer:
        for chunk in chunks_of(event):
            run.take(chunk)
    return True


def _refused(run: Run, answer: Any) -> bool:
    """Whether vLLM answered with its error object instead of a stream."""
    error = getattr(answer, "error", None)
    if error is None:
        return False
    run.fail(StreamError(error.message, error.type, int(error.code)))
    return True


def _bad(message: str) -> StreamError:
    return StreamError(message, "BadRequestError", HTTPStatus.BAD_REQUEST)


def _sentence(error: ValidationError) -> str:
    """The first mistakes, each with the field it is in."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    told = []
    for detail in details[:VALIDATION_ERRORS_MAX]:
        path = ".".join(str(part) for part in detail["loc"])
        reason = detail["msg"].removeprefix("Value error, ")
        told.append(f"{path}: {reason}" if path else reason)
    return "; ".join(told)
