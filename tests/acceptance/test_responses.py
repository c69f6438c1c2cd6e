"""The Responses API with the official client, whose own way to resume goes on elsewhere when a worker has died."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from bench.roles import RoleProcess
from bench.system import System
from bench.transcript import MODEL, client, expected
from bench.worker_kill import worker_of
from infra.ports import free_port
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean
from workers.engines.simulator import reference_text

TOKENS = 240
"""Longer than it takes to find and kill who runs it, on a busy machine too."""

WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=2, itl_ms=10, ttft_ms=5)


@pytest.fixture(scope="module")
def other_url(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second edge on a port of its own, so that a test can say which of two it asks."""
    port, log_path = free_port(), tmp_path_factory.mktemp("edge") / "log"
    edge = RoleProcess("edge", "other", log_path, nats_url=system.nats_url, port=port)
    yield f"http://127.0.0.1:{port}"
    assert edge.stop() == 0


def text_of(events: list[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def ended(official: openai.OpenAI, response: Response) -> Response:
    """Polls, as the documentation of the official API says."""
    deadline = time.monotonic() + 30
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        response = official.responses.retrieve(response.id)
    return response


@pytest.mark.parametrize("seen_events", [1, 3, 20])
def test_a_cut_stream_goes_on_at_another_edge_though_its_worker_was_killed(
    system: System, other_url: str, seen_events: int
) -> None:
    prompt = f"resume after {seen_events}"
    with client(system.url) as official:
        stream = official.responses.create(
            model=MODEL, input=prompt, max_output_tokens=TOKENS, background=True, stream=True
        )
        first = list(islice(stream, seen_events))
        stream.close()
    assert first[0].type == "response.created"
    id_ = first[0].response.id
    with client(other_url) as official:
        while official.responses.retrieve(id_).status == "queued":
            time.sleep(0.01)
        victim = worker_of(system, id_.removeprefix("resp_"))
        system.kill(victim)
        after = first[-1].sequence_number
        rest = list(official.responses.retrieve(id_, stream=True, starting_after=after))
        again = list(official.responses.retrieve(id_, stream=True))
        retrieved = official.responses.retrieve(id_)
    everything = first + rest
    assert text_of(everything) == expected(prompt, TOKENS)
    assert [event.sequence_number for event in everything] == list(range(len(everything)))
    assert everything[-1].type == "response.incomplete"
    assert retrieved == everything[-1].response
    assert [event.to_dict() for event in again] == [event.to_dict() for event in everything]
    log = assert_clean(system.nats_url, [id_.removeprefix("resp_")])[id_.removeprefix("resp_")]
    assert len(log.causes) == 2, "the worker that was killed had it"
    system.wait_replaced(victim)


def test_a_chain_of_turns_remembers_what_was_said(system: System, other_url: str) -> None:
    with client(system.url) as here, client(other_url) as there:
        first = here.responses.create(model=MODEL, input="one", instructions="be brief")
        assert (
            first.output_text
            == reference_text("system: be brief\nuser: one", 0, 10_000)[: len(first.output_text)]
        )
        second = there.responses.create(
            model=MODEL, input="two", previous_response_id=first.id, max_output_tokens=8
        )
        prompt = f"user: one\nassistant: {first.output_text}\nuser: two"
        assert second.output_text == reference_text(prompt, 0, 8)
        third = here.responses.create(
            model=MODEL, input="three", previous_response_id=second.id, max_output_tokens=8
        )
        prompt += f"\nassistant: {second.output_text}\nuser: three"
        assert third.output_text == reference_text(prompt, 0, 8)
        assert third.previous_response_id == second.id


def test_in_the_background_it_is_polled_for_anywhere(system: System, other_url: str) -> None:
    with client(system.url) as here, client(other_url) as there:
        queued = here.responses.create(model=MODEL, input="poll", max_output_tokens=40, background=True)
        assert queued.status == "queued"
        done = ended(there, queued)
        assert (done.status, done.output_text) == ("incomplete", expected("poll", 40))
        assert done.incomplete_details
        assert done.incomplete_details.reason == "max_output_tokens"
        assert done.usage
        assert done.usage.output_tokens == 40
        (item,) = there.responses.input_items.list(queued.id).data
        assert item.type == "message"


def test_it_is_cancelled_anywhere(system: System, other_url: str) -> None:
    with client(system.url) as here, client(other_url) as there:
        running = here.responses.create(model=MODEL, input="stop", max_output_tokens=2000, background=True)
        assert there.responses.cancel(running.id).status == "cancelled"
        assert here.responses.retrieve(running.id).status == "cancelled"
        here.responses.delete(running.id)
        with pytest.raises(openai.NotFoundError):
            there.responses.retrieve(running.id)


def test_functions_are_called_and_their_results_taken(system: System) -> None:
    with client(system.url) as official:
        with official.responses.stream(
            model=MODEL, input="call", tools=[WEATHER], tool_choice="required", reasoning={"effort": "low"}
        ) as stream:
            asked = stream.until_done().get_final_response()
        assert [item.type for item in asked.output] == ["reasoning", "function_call"]
        call = asked.output[1]
        assert call.type == "function_call"
        assert call.name == "weather"
        whole = official.responses.create(
            model=MODEL, input="call", tools=[WEATHER], tool_choice="required", reasoning={"effort": "low"}
        )
        assert [item.to_dict() | {"id": ""} for item in whole.output] == [
            item.to_dict(exclude_unset=True) | {"id": ""}
            for item in official.responses.retrieve(asked.id).output
        ]
        result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
        told = official.responses.create(model=MODEL, input=result, previous_response_id=asked.id)
        assert told.status == "completed"
        assert told.output_text


def test_a_request_that_breaks_the_engine_is_failed(system: System) -> None:
    fault = {"penstock_fault": {"raise_at_token": 3}}
    with client(system.url) as official:
        response = official.responses.create(model=MODEL, input="poison", background=True, extra_body=fault)
        failed = ended(official, response)
        assert failed.status == "failed"
        assert failed.error
        assert failed.error.code == "server_error"
        with pytest.raises(openai.APIError):
            list(official.responses.retrieve(response.id, stream=True))
