"""Every endpoint of the API."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from edge import models_api
from edge.anthropic import endpoints as anthropic_api
from edge.call import Call
from edge.compat import endpoints as compat
from edge.desk import refuse
from edge.dialect import Dialect
from edge.dialects import CHAT, COMPLETION, EMBEDDING
from edge.endpoint import Endpoint
from edge.errors import Problem
from edge.openai_bodies import ChatBody, CompletionBody, EmbeddingBody
from edge.responses import api as responses_api
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
    "queue_timeout",
    "outcome_unknown",
    "request_timeout",
    "engine_error",
    "poison",
    "not_continuable",
    "log_lost",
    "cancelled",
)


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
    def of(path: str, dialect: Dialect, takes: type, summary: str, *, streams: bool) -> Endpoint:
        handle = partial(edge.generate, dialect)
        return Endpoint("POST", path, handle, summary, takes, streams=streams, problems=GENERATION_PROBLEMS)

    return [
        of("/v1/chat/completions", CHAT, ChatBody, "A chat's next message", streams=True),
        of("/v1/completions", COMPLETION, CompletionBody, "A text's continuation", streams=True),
        of("/v1/embeddings", EMBEDDING, EmbeddingBody, "Embeddings of texts", streams=False),
    ]


def _requests(edge: Edge) -> list[Endpoint]:
    requests = edge.requests

    async def stream(call: Call) -> Response:
        permit = await edge.open_answer(call.caller)
        if isinstance(permit, Problem):
            return refuse(permit, errors=call.errors)
        return await requests.stream(call.caller.tenant, call.path["rid"], call.headers, call.query, permit)

    async def show(call: Call) -> Response:
        return await requests.show(call.caller.tenant, call.path["rid"])

    async def cancel(call: Call) -> Response:
        return await requests.cancel(call.caller.tenant, call.path["rid"])

    return [
        Endpoint(
            "GET",
            "/v1/requests/{rid}/stream",
            stream,
            "A request's output, from any place on",
            streams=True,
            problems=("quota_exceeded",),
        ),
        Endpoint("GET", "/v1/requests/{rid}", show, "How a request stands"),
        Endpoint("DELETE", "/v1/requests/{rid}", cancel, "Cancels a request"),
    ]
