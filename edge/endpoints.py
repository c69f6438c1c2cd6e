"""Every endpoint of the API."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import Response

from edge import models_api
from edge.anthropic import endpoints as anthropic_api
from edge.call import Call
from edge.compat import endpoints as compat
from edge.dialect import Dialect
from edge.dialects import CHAT, COMPLETION, EMBEDDING
from edge.endpoint import Endpoint
from edge.openai_bodies import ChatBody, CompletionBody, EmbeddingBody
from edge.openapi.answers import ChatChunk, ChatCompletion, EmbeddingList, TextChunk, TextCompletion
from edge.openapi.headers import READING
from edge.pages import Page
from edge.responses import api as responses_api
from edge.responses.described import ResponseEvent
from edge.service import Edge

GENERATION_PROBLEMS = (
    "context_length",
    "invalid_image",
    "image_fetch_failed",
    "model_not_found",
    "idempotency_mismatch",
    "not_allowed",
    "rate_limited",
    "queue_full",
    "quota_exceeded",
    "no_slot",
    "no_workers",
    "edge_full",
    "output_full",
    "too_late",
    "queue_timeout",
    "outcome_unknown",
    "request_timeout",
    "engine_error",
    "poison",
    "not_continuable",
    "log_lost",
    "cancelled",
)

RUN_PROBLEMS = (
    "context_length",
    "queue_timeout",
    "request_timeout",
    "engine_error",
    "poison",
    "not_continuable",
    "log_lost",
    "cancelled",
)
"""How a request that runs may end."""


def endpoints(edge: Edge) -> list[Endpoint]:
    """The table of one edge."""
    return [
        *_generation(edge),
        *responses_api.endpoints(edge, GENERATION_PROBLEMS),
        *anthropic_api.endpoints(edge, GENERATION_PROBLEMS),
        *edge.batches.endpoints(),
        *models_api.endpoints(edge),
        *_requests(edge),
        *compat.endpoints(edge, GENERATION_PROBLEMS),
    ]


def _generation(edge: Edge) -> list[Endpoint]:
    def of(
        path: str,
        dialect: Dialect,
        takes: type,
        gives: type,
        summary: str,
        example: Mapping[str, object],
        *events: type,
    ) -> Endpoint:
        handle = partial(edge.generate, dialect)
        streamed = {"streamed": {**example, "stream": True}} if events else {}
        return Endpoint(
            "POST",
            path,
            handle,
            summary,
            takes,
            gives,
            streams=bool(events),
            problems=GENERATION_PROBLEMS,
            events=events,
            examples={"whole": example, **streamed},
        )

    chat = {"messages": [{"role": "user", "content": "Tell me about rivers."}], "max_tokens": 32}
    text = {"prompt": "Rivers begin", "max_tokens": 32}
    texts = {"input": ["a river", "a lake"]}
    summary = "A text's continuation"
    return [
        of("/v1/chat/completions", CHAT, ChatBody, ChatCompletion, "A chat's next message", chat, ChatChunk),
        of("/v1/completions", COMPLETION, CompletionBody, TextCompletion, summary, text, TextChunk),
        of("/v1/embeddings", EMBEDDING, EmbeddingBody, EmbeddingList, "Embeddings of texts", texts),
    ]


def _requests(edge: Edge) -> list[Endpoint]:
    requests = edge.requests

    async def stream(call: Call) -> Response:
        count_in = partial(edge.open_answer, call.caller)
        return await requests.stream(
            call.caller.tenant, call.path["rid"], call.headers, call.query, count_in, call.trace
        )

    async def show(call: Call) -> Response:
        return await requests.show(call.caller.tenant, call.path["rid"])

    async def cancel(call: Call) -> Response:
        return await requests.cancel(call.caller.tenant, call.path["rid"])

    known = ("not_found", "broker_away", "log_lost")
    return [
        Endpoint(
            "GET",
            "/v1/requests/{rid}/stream",
            stream,
            "A request's output, from any place on",
            streams=True,
            problems=(*known, *RUN_PROBLEMS, "quota_exceeded", "edge_full", "draining"),
            parameters=READING,
            events=(ChatChunk, TextChunk, EmbeddingList, ResponseEvent, dict[str, Any]),
        ),
        Endpoint("GET", "/v1/requests/{rid}", show, "How a request stands", gives=Page, problems=known),
        Endpoint(
            "DELETE",
            "/v1/requests/{rid}",
            cancel,
            "Cancels a request",
            gives=Page,
            problems=(*known, "output_full"),
        ),
    ]
