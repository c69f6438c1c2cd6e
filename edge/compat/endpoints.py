"""The endpoints of the reference systems that are asked for work or for what became of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgspec
from starlette.responses import Response

from edge import models_api
from edge.call import Call
from edge.compat.generate import GENERATE, GenerateBody, Generation
from edge.compat.predict import PREDICT, PredictBody, Prediction
from edge.compat.results import Results
from edge.compat.styles import PREDICT_ERRORS
from edge.compat.v1_generate import EVENTS, EventsAnswer, EventsBody
from edge.desk import refuse
from edge.endpoint import Endpoint
from edge.errors import Problem
from edge.service import Edge
from edge.wishes import KEY_HEADER, ON_DISCONNECT_HEADER
from schemas.health import QueueStats


def endpoints(edge: Edge, problems: tuple[str, ...]) -> list[Endpoint]:
    """The table; `problems` are those of any generation."""

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
            errors=PREDICT_ERRORS,
        ),
        Endpoint(
            "GET",
            "/v1/result/{id}",
            Results(edge).show,
            "What became of a request",
            gives=Prediction,
            problems=("not_found", "broker_away", *problems),
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
        Endpoint(
            "POST",
            "/generate",
            partial(edge.generate, GENERATE),
            "A text's continuation, with its timings",
            GenerateBody,
            Generation,
            streams=True,
            problems=problems,
            errors=GENERATE.errors,
        ),
        Endpoint("GET", "/models", partial(models_api.list_models, edge), "The models that can be asked for"),
        Endpoint(
            "POST",
            "/v1/generate",
            partial(edge.generate, EVENTS),
            "A text's continuation, as `token`, `done` and `error` events",
            EventsBody,
            EventsAnswer,
            streams=True,
            problems=problems,
            errors=EVENTS.errors,
        ),
    ]
