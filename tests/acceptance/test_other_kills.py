"""kill -9 of the scheduler, of one of two edges, of the broker: what was accepted completes."""

from __future__ import annotations

import asyncio

import openai
import pytest

from bench.system import System
from bench.transcript import Transcript, assert_whole, expected, stream
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas.ids import ANONYMOUS
from schemas.log import fold
from schemas.output import End
from schemas.streams import REQUESTS
from tests.acceptance.conftest import StartSystem
from tests.acceptance.streams import Streams

STREAMS = 16
TOKENS = 150


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(edges=2, workers=2, itl_ms=10, ttft_ms=5)


def test_a_killed_scheduler_is_not_noticed_by_running_streams(system: System) -> None:
    streams = Streams(system, "scheduler")
    victim = system.processes("scheduler")[0]
    system.kill(victim)
    streams.assert_all_whole()
    system.wait_replaced(victim)
    assert_whole(stream(system.url, "after the scheduler", 20), "after the scheduler", 20)


def test_requests_made_while_no_scheduler_runs_complete(system: System) -> None:
    victim = system.processes("scheduler")[0]
    system.kill(victim)
    assert_whole(stream(system.url, "nobody schedules", 20), "nobody schedules", 20)
    system.wait_replaced(victim)


def test_a_killed_edge_takes_only_its_own_connections_with_it(system: System) -> None:
    streams = Streams(system, "edge")
    victim = system.processes("edge")[0]
    system.kill(victim)
    results = streams.results()
    cut = [result for result in results if isinstance(result, openai.APIError)]
    assert all(isinstance(error, openai.APIConnectionError) for error in cut), "never a clean end"
    for prompt, result in zip(streams.prompts, results, strict=True):
        if isinstance(result, Transcript):
            assert_whole(result, prompt, TOKENS)
    system.wait_replaced(victim)


@pytest.mark.timeout(180)
def test_a_killed_broker_only_delays_running_streams(system: System) -> None:
    streams = Streams(system, "broker")
    victim = system.processes("broker")[0]
    system.kill(victim)
    streams.assert_all_whole()
    system.wait_replaced(victim)
    assert_whole(stream(system.url, "after the broker", 20), "after the broker", 20)


@pytest.mark.timeout(180)
def test_what_was_accepted_completes_in_the_log_whoever_died(system: System) -> None:
    """The clients' edge dies: the requests are still the system's, and their logs end whole or cancelled."""
    streams = Streams(system, "log")
    for edge in system.processes("edge"):
        system.kill(edge)
    streams.results()
    system.wait_ready("edge", 2)
    ends = asyncio.run(_ends(system, list(streams.rids)))
    assert len(ends) == STREAMS
    for prompt, (end, text) in ends.items():
        assert prompt in streams.prompts
        assert end.status == "ok"
        assert text == expected(prompt, TOKENS)


async def _ends(system: System, rids: list[str]) -> dict[str, tuple[End, str]]:
    """END and text of each request, by its prompt's reference; waits until REQUESTS is empty."""
    bus = await Bus.connect(system.nats_url, name="test", fail=print)
    js = JetStream(bus)
    async with asyncio.timeout(60):
        while await js.queue_depth(REQUESTS):
            await asyncio.sleep(0.05)
    references = {expected(f"log {number}", TOKENS): f"log {number}" for number in range(STREAMS)}
    ends = {}
    for rid in rids:
        folded = fold(await OutputLog(js).read(ANONYMOUS, rid))
        assert folded.end is not None
        ends[references["".join(folded.texts)]] = (folded.end, "".join(folded.texts))
    await bus.close()
    return ends
