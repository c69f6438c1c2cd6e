"""`/v1/models`: what can be asked for, with the fields of both APIs that have this path."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from edge.anthropic.errors import ANTHROPIC_ERRORS
from edge.call import Call
from edge.endpoint import Endpoint
from edge.errors import Problem
from edge.openapi.answers import ModelAnswer, ModelList
from edge.problem_response import ProblemResponse
from edge.registry import name_asked
from edge.service import Edge
from schemas.dispatch import ModelCard

ANTHROPIC_VERSION = "anthropic-version"
"""A header that all of Anthropic's clients send, and no other."""


def endpoints(edge: Edge) -> list[Endpoint]:
    """The list, and one of it."""

    async def retrieve_model(call: Call) -> Response:
        name = call.path["name"]
        card = edge.registry.find(name, edge.now())
        if isinstance(card, Problem):
            is_anthropics = ANTHROPIC_VERSION in call.headers
            return ProblemResponse(card, errors=ANTHROPIC_ERRORS if is_anthropics else call.errors)
        return _json(_describe(edge, card, name_asked(card, name)))

    # Names have slashes in them: `Qwen/Qwen2.5-1.5B`.
    return [
        Endpoint(
            "GET",
            "/v1/models",
            partial(list_models, edge),
            "The models that can be asked for",
            gives=ModelList,
        ),
        Endpoint(
            "GET",
            "/v1/models/{name:path}",
            retrieve_model,
            "One model",
            gives=ModelAnswer,
            problems=("model_not_found", "no_workers"),
        ),
    ]


async def list_models(edge: Edge, _call: Call) -> Response:
    """Those that requests are queued for now, each with the names of its adapters."""
    cards = edge.registry.offered(edge.now())
    listed = [_describe(edge, card, name) for card in cards for name in (card.name, *card.adapters)]
    ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {}
    return _json({"object": "list", "data": listed, "has_more": False, **ends})


def _describe(edge: Edge, card: ModelCard, name: str) -> dict[str, Any]:
    described = {
        "id": name,
        "object": "model",
        "created": edge.started,
        "owned_by": "penstock",
        "max_model_len": card.context_tokens_max,
        # What follows is what Anthropic's clients look for.
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(edge.started, UTC),
        "lifecycle": "active",
        "max_input_tokens": card.context_tokens_max,
        "max_tokens": card.context_tokens_max,
    }
    return described if name == card.name else described | {"parent": card.name}


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
