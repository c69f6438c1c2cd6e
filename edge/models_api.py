"""`/v1/models`: what can be asked for."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from edge.call import Call
from edge.endpoint import Endpoint
from edge.errors import Problem
from edge.problem_response import ProblemResponse
from edge.registry import name_asked
from edge.service import Edge
from schemas.dispatch import ModelCard


def endpoints(edge: Edge) -> list[Endpoint]:
    """The list, and one of it."""

    def describe(card: ModelCard, name: str) -> dict[str, Any]:
        described = {
            "id": name,
            "object": "model",
            "created": edge.started,
            "owned_by": "penstock",
            "max_model_len": card.context_tokens_max,
        }
        return described if name == card.name else described | {"parent": card.name}

    async def list_models(_call: Call) -> Response:
        cards = edge.registry.offered(edge.now())
        listed = [describe(card, name) for card in cards for name in (card.name, *card.adapters)]
        return _json({"object": "list", "data": listed})

    async def retrieve_model(call: Call) -> Response:
        name = call.path["name"]
        card = edge.registry.find(name, edge.now())
        if isinstance(card, Problem):
            return ProblemResponse(card, errors=call.errors)
        return _json(describe(card, name_asked(card, name)))

    # Names have slashes in them: `Qwen/Qwen2.5-1.5B`.
    return [
        Endpoint("GET", "/v1/models", list_models, "The models that can be asked for"),
        Endpoint(
            "GET",
            "/v1/models/{name:path}",
            retrieve_model,
            "One model",
            problems=("model_not_found", "no_workers"),
        ),
    ]


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
