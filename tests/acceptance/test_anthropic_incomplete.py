"""Whatever cuts a streamed message short, Anthropic's official client raises: nobody takes a part for the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from anthropic import Anthropic

from bench.system import Process, System
from bench.transcript import MODEL, expected
from bench.worker_kill import worker_of
from tests.acceptance.conftest import StartSystem

TOKENS = 400
ITL_MS = 10
"""Four seconds of text: time enough to break it."""

DEADLINE_S = 3.0
DRAIN_TIMEOUT_S = 3.0
SLOW_FACTOR = 3
"""For engines that die at a token: what they made before it is stored by then."""


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(itl_ms=ITL_MS, ttft_ms=5, workers=2, drain_timeout_s=DRAIN_TIMEOUT_S)


class Broken(Exception):
    """What the client raised, after this text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def read(
    system: System, prompt: str, break_it: Callable[[str], object] = lambda rid: None, **fields: Any
) -> str:
    """The text of a message that the client takes for whole; `break_it(rid)` is called after a few pieces.

    Raises Broken from the client's own error.
    """
    pieces: list[str] = []
    client = Anthropic(base_url=system.url, api_key="unused", max_retries=0, timeout=60)
    body = {"model": MODEL, "max_tokens": TOKENS, "messages": [{"role": "user", "content": prompt}]}
    try:
        with client, client.messages.stream(**{**body, **fields}) as stream:
            for piece in stream.text_stream:
                pieces.append(piece)
                if len(pieces) == 5:
                    break_it(stream.current_message_snapshot.id.removeprefix("msg_"))
            assert stream.get_final_message().stop_reason == "max_tokens"
    except (anthropic.APIError, httpx2.HTTPError) as error:
        raise Broken("".join(pieces)) from error
    return "".join(pieces)


def told(broken: Broken) -> tuple[str | None, str | None]:
    """The type of the error that the server has sent, and its words."""
    cause = broken.__cause__
    assert isinstance(cause, anthropic.APIStatusError), cause
    return cause.type, cause.api_message


@pytest.fixture(autouse=True)
def whole_again(system: System) -> Iterator[None]:
    """After each case everything runs again, and a message that nothing breaks is whole."""
    yield
    system.wait_until(lambda: all(p.ready for p in system.processes()), "everything is ready")
    assert read(system, "after", max_tokens=20) == expected("after", 20)


@pytest.mark.parametrize("fault", ["die_at_token", "raise_at_token", "oom_at_token"])
def test_an_engine_that_fails_each_time(system: System, fault: str) -> None:
    with pytest.raises(Broken) as broken:
        read(system, fault, extra_body={"penstock_fault": {fault: 20, "slow_factor": SLOW_FACTOR}})
    assert broken.value.text == expected(fault, 20)
    assert told(broken.value)[0] == "api_error"


def test_another_client_cancels_it(system: System) -> None:
    def cancel(rid: str) -> None:
        assert httpx.delete(f"{system.url}/v1/requests/{rid}").json()["status"] == "cancelled"

    with pytest.raises(Broken) as broken:
        read(system, "cancel", cancel)
    assert expected("cancel", TOKENS).startswith(broken.value.text)
    assert told(broken.value) == ("invalid_request_error", "the request was cancelled")


def test_it_runs_out_of_time(system: System) -> None:
    with pytest.raises(Broken) as broken:
        read(
            system,
            "late",
            max_tokens=2 * TOKENS,
            extra_headers={"x-penstock-deadline": str(DEADLINE_S)},
        )
    assert broken.value.text
    assert expected("late", 2 * TOKENS).startswith(broken.value.text)
    assert told(broken.value)[0] == "timeout_error"


def test_its_edge_stops_and_sends_it_away(system: System) -> None:
    [edge] = system.processes("edge")
    with pytest.raises(Broken) as broken:
        read(system, "drain", lambda rid: system.terminate(edge), max_tokens=2 * TOKENS)
    kind, words = told(broken.value)
    assert kind == "overloaded_error"
    assert words is not None
    system.wait_replaced(edge)
    path = words.rpartition(" ")[2]
    rest = httpx.get(f"{system.url}{path}", timeout=60).text
    assert rest.count("event: message_stop") == 1, "the error says where the rest is"
    assert expected("drain", 2 * TOKENS).startswith(broken.value.text)


def test_its_edge_is_killed(system: System) -> None:
    [edge] = system.processes("edge")
    with pytest.raises(Broken) as broken:
        read(system, "kill the edge", lambda rid: system.kill(edge))
    assert isinstance(broken.value.__cause__, httpx2.HTTPError | anthropic.APIConnectionError)
    assert expected("kill the edge", TOKENS).startswith(broken.value.text)
    system.wait_replaced(edge)


def test_its_worker_is_killed_and_nothing_is_missing(system: System) -> None:
    killed: list[Process] = []

    def kill(rid: str) -> None:
        killed.append(worker_of(system, rid))
        system.kill(killed[0])

    assert read(system, "kill the worker", kill) == expected("kill the worker", TOKENS)
    system.wait_replaced(killed[0])
