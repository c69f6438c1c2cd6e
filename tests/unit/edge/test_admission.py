"""From a body and headers to the message in the queue."""

from __future__ import annotations

from typing import Any

from edge.admission import Admitted, Arrival, admit
from edge.errors import Problem
from edge.openai_bodies import Body
from edge.registry import Registry
from schemas.dispatch import Leader, ModelCard, ModelState
from schemas.ids import ANONYMOUS, RequestId, fingerprint
from schemas.requests import MSG_ID, RequestMeta, parse_meta
from schemas.subjects import parse_request

RID = RequestId("a" * 26)
CARD = ModelCard("m", "m", "simulator", 4096, 256)
RAW = b"x" * 400
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def admitted(body: Body | None = None, **headers: str) -> Admitted | Problem:
    registry = Registry(model_seen_s=60)
    registry.heard(Leader("s", 1, 0, [ModelState(CARD, 1, 4, 4, 0.0)]), 0.0)
    arrival = Arrival(RID, ANONYMOUS, RAW, {key.replace("_", "-"): value for key, value in headers.items()})
    return admit(arrival, body or Body(model="m", stream=True), registry, edge="edge-1", now=0.0)


def meta(**kwargs: Any) -> RequestMeta:
    one = admitted(**kwargs)
    assert isinstance(one, Admitted)
    parsed = parse_meta(one.headers)
    assert isinstance(parsed, RequestMeta)
    return parsed


def test_the_subject_and_the_message_id_name_the_request() -> None:
    one = admitted()
    assert isinstance(one, Admitted)
    assert parse_request(one.subject) == ("standard", "m", ANONYMOUS, RID)
    assert one.headers[MSG_ID] == f"{ANONYMOUS}.{RID}"
    assert one.card == CARD


def test_the_meta_is_what_the_scheduler_decides_from() -> None:
    assert meta(body=Body(model="m", stream=True, max_tokens=30)) == RequestMeta(
        max_tokens=30, cost=130, fingerprint=fingerprint(RAW), stream=True, edge="edge-1"
    )


def test_without_a_limit_the_models_default_counts() -> None:
    assert meta(body=Body(model="m")).max_tokens == CARD.max_tokens_default
    assert not meta(body=Body(model="m")).stream


def test_the_class_comes_from_a_header() -> None:
    one = admitted(x_penstock_class="interactive")
    assert isinstance(one, Admitted)
    parsed = parse_request(one.subject)
    assert parsed is not None
    assert parsed.klass == "interactive"


def test_an_unknown_class_is_refused() -> None:
    problem = admitted(x_penstock_class="vip.>")
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("bad_request", "x-penstock-class")


def test_more_output_than_the_context_holds_is_refused() -> None:
    problem = admitted(Body(model="m", max_completion_tokens=4097))
    assert isinstance(problem, Problem)
    assert problem.reason == "context_length"


def test_an_unknown_model_is_refused() -> None:
    problem = admitted(Body(model="nope"))
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("model_not_found", "model")


def test_only_a_well_formed_traceparent_travels_on() -> None:
    assert meta(traceparent=TRACEPARENT).traceparent == TRACEPARENT
    assert meta(traceparent=TRACEPARENT + "\r\nNats-Rollup: all").traceparent == ""
