"""The endpoints of the reference systems that are asked for work or for what became of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from edge import models_api
from edge.call import Call
from edge.compat.generate import GENERATE, GenerateBody, Generation, Piece
from edge.compat.predict import PREDICT, PredictBody, Prediction
from edge.compat.results import PENDING_STATUS, Pending, Results
from edge.compat.styles import PREDICT_ERRORS
from edge.compat.v1_generate import EVENTS, DoneEvent, EventsAnswer, EventsBody, TokenEvent
from edge.desk import refuse
from edge.endpoint import Endpoint
from edge.errors import Problem
from edge.openapi.answers import ModelList
from edge.service import Edge
from edge.wishes import KEY_HEADER, ON_DISCONNECT_HEADER
from schemas.health import QueueStats

_EXAMPLE = {"prompt": "Rivers begin", "max_tokens": 32}


def endpoints(edge: Edge, problems: tuple[str, ...]) -> list[Endpoint]:
    """The table; `problems` are those of any generation."""
    return [*_predicting(edge, problems), *_generating(edge, problems)]


def _predicting(edge: Edge, problems: tuple[str, ...]) -> list[Endpoint]:

    async def predict(call: Call) -> Response:
        asked = PREDICT.read(call.body)
        if isinstance(asked, Problem):
            return refuse(asked, errors=call.errors)
        if asked.body.given_id:
            # Who names a request comes back for its result, whether it waited for it or not.
            named = {KEY_HEADER: asked.body.given_id}
            call = replace(call, headers={ON_DISCONNECT_HEADER: "detach", **call.headers, **named})
        return await edge.generate(PREDICT, call, asked)

    async def queue_stats(_call: Call) -> Response:
        return Response(msgspec.json.encode(edge.registry.queue_stats()), media_type="application/json")

    return [
        Endpoint(
            "POST",
            "/v1/predict",
            predict,
            "A chat's next message, whole",
            PredictBody,
            Prediction,
            problems=problems,
            examples={"whole": {"messages": [{"role": "user", "content": "Tell me about rivers."}]}},
            errors=PREDICT_ERRORS,
        ),
        Endpoint(
            "GET",
            "/v1/result/{id}",
            Results(edge).show,
            "What became of a request: the answer that its POST would have had",
            gives=dict[str, Any],
            also={PENDING_STATUS: Pending},
            problems=(
                "not_found",
                "broker_away",
                *(one for one in problems if one != "idempotency_mismatch"),
            ),
            errors=PREDICT_ERRORS,
        ),
        Endpoint(
            "GET",
            "/v1/queue/stats",
            queue_stats,
            "How many requests wait and run, and how many workers do",
            gives=QueueStats,
            errors=PREDICT_ERRORS,
        ),
    ]


def _generating(edge: Edge, problems: tuple[str, ...]) -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/generate",
            partial(edge.generate, GENERATE),
            "A text's continuation, with its timings",
            GenerateBody,
            Generation,
            streams=True,
            events=(Piece, Generation),
            problems=problems,
            errors=GENERATE.errors,
            examples={"whole": _EXAMPLE, "streamed": {**_EXAMPLE, "stream": True}},
        ),
        Endpoint(
            "GET",
            "/models",
            partial(models_api.list_models, edge),
            "The models that can be asked for",
            gives=ModelList,
        ),
        Endpoint(
            "POST",
            "/v1/generate",
            partial(edge.generate, EVENTS),
            "A text's continuation, as `token`, `done` and `error` events",
            EventsBody,
            EventsAnswer,
            streams=True,
            events=(TokenEvent, DoneEvent),
            last_data="",
            problems=problems,
            errors=EVENTS.errors,
            examples={"whole": _EXAMPLE, "streamed": {**_EXAMPLE, "stream": True}},
        ),
    ]
