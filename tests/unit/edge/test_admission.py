"""From a body and headers to the message in the queue."""

from __future__ import annotations

from typing import Any

import pytest

from edge.admission import Admitted, Arrival, admit
from edge.errors import Problem
from edge.openai_bodies import Body, EmbeddingBody, GenerationBody, StreamOptions
from edge.registry import Registry
from edge.wishes import Wishes
from schemas.dispatch import Leader, ModelCard, ModelState
from schemas.ids import ANONYMOUS, RequestId, fingerprint
from schemas.requests import MSG_ID, RequestMeta, View, parse_meta
from schemas.subjects import parse_request

RID = RequestId("a" * 26)
CARD = ModelCard("m", "m", "simulator", 4096, 256, ["tuned"])
RAW = b"x" * 400
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


NOTHING = Wishes(grace_s=0.0, key=None, deadline_s=None)
QUEUE_TIMEOUT_S = 120.0


def admitted(
    body: Body | None = None, wishes: Wishes = NOTHING, *, output_used: float = 0.0, **headers: str
) -> Admitted | Problem:
    registry = Registry(model_seen_s=60, cold_start="queue")
    registry.heard(Leader("s", 1, 0, [ModelState(CARD, 1, 4, 4, 0.0)], output_used), 0.0)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    arrival = Arrival(RID, ANONYMOUS, RAW, fingerprint(RAW), named, "completion", 1_700_000_000)
    return admit(
        arrival,
        body or GenerationBody(model="m", stream=True),
        wishes,
        registry,
        edge="edge-1",
        queue_timeout_s=QUEUE_TIMEOUT_S,
        now=0.0,
    )


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
    assert meta(body=GenerationBody(model="m", stream=True, max_tokens=30)) == RequestMeta(
        max_tokens=30,
        cost=130,
        fingerprint=fingerprint(RAW),
        stream=True,
        grace_s=0.0,
        view=View("completion", "m", 1_700_000_000, True, False),
        edge="edge-1",
    )


def test_the_view_is_how_the_client_asked_for_its_output() -> None:
    usage = StreamOptions(include_usage=True)
    one = admitted(GenerationBody(model=None, stream=True, stream_options=usage))
    assert isinstance(one, Admitted)
    assert one.meta.view == View("completion", "m", 1_700_000_000, True, True), (
        "under the name the model goes by"
    )
    assert meta(body=GenerationBody(model="m", stream=True, stream_options=usage)).view == one.meta.view
    assert meta(body=GenerationBody(model="m")).view == View("completion", "m", 1_700_000_000, False, False)


@pytest.mark.parametrize("grace_s", [None, 0.0, 30.0])
def test_what_leaving_means_travels_with_the_request(grace_s: float | None) -> None:
    assert meta(wishes=Wishes(grace_s, None, None)).grace_s == grace_s


@pytest.mark.parametrize(
    ("deadline_s", "queue_timeout_s", "request_timeout_s"),
    [(None, 0.0, 0.0), (0.5, 0.5, 0.5), (119.0, 119.0, 119.0), (120.0, 0.0, 120.0), (600.0, 0.0, 600.0)],
)
def test_no_request_waits_in_the_queue_beyond_its_deadline(
    deadline_s: float | None, queue_timeout_s: float, request_timeout_s: float
) -> None:
    one = meta(wishes=Wishes(0.0, None, deadline_s))
    assert (one.queue_timeout_s, one.request_timeout_s) == (queue_timeout_s, request_timeout_s)


def test_without_room_for_output_nothing_new_is_taken() -> None:
    problem = admitted(output_used=0.8)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.row.status, problem.row.retry_after) == ("output_full", 503, True)
    final = admitted(GenerationBody(model="nope"), output_used=0.8)
    assert isinstance(final, Problem)
    assert final.reason == "model_not_found", "what waiting cannot mend is said first"


def test_without_a_limit_the_models_default_counts() -> None:
    assert meta(body=GenerationBody(model="m")).max_tokens == CARD.max_tokens_default
    assert not meta(body=GenerationBody(model="m")).stream


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
    problem = admitted(GenerationBody(model="m", max_completion_tokens=4097))
    assert isinstance(problem, Problem)
    assert problem.reason == "context_length"


def test_each_choice_costs_its_tokens() -> None:
    one = meta(body=GenerationBody(model="m", max_tokens=30, n=4))
    assert (one.max_tokens, one.cost) == (30, 100 + 4 * 30)


def test_embeddings_cost_their_input_and_are_never_streamed() -> None:
    one = meta(body=EmbeddingBody(model="m", input="x"))
    assert (one.max_tokens, one.cost, one.stream) == (1, 101, False)


def test_the_view_names_the_adapter_that_was_asked_for_and_the_queue_is_the_models() -> None:
    one = admitted(GenerationBody(model="tuned"))
    assert isinstance(one, Admitted)
    assert one.meta.view is not None
    assert one.meta.view.model == "tuned"
    subject = parse_request(one.subject)
    assert subject is not None
    assert (subject.model, one.card.name) == ("m", "m")


def test_an_unknown_model_is_refused() -> None:
    problem = admitted(GenerationBody(model="nope"))
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("model_not_found", "model")


def test_only_a_well_formed_traceparent_travels_on() -> None:
    assert meta(traceparent=TRACEPARENT).traceparent == TRACEPARENT
    assert meta(traceparent=TRACEPARENT + "\r\nNats-Rollup: all").traceparent == ""
