"""kill -9 of the scheduler, of one of two edges, of the broker: what was accepted completes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

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

STREAMS = 16
TOKENS = 150


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(edges=2, workers=2, itl_ms=10, ttft_ms=5)


class Streams:
    """Some streams at once, each in a thread; `flowing` once all of them have their first text."""

    def __init__(self, system: System, name: str) -> None:
        self.prompts = [f"{name} {number}" for number in range(STREAMS)]
        self.rids: dict[str, None] = {}
        self._pool = ThreadPoolExecutor(STREAMS)
        self._futures = [self._pool.submit(stream, system.url, p, TOKENS, self._note) for p in self.prompts]
        system.wait_until(lambda: len(self.rids) == STREAMS, "all streams flow")

    def _note(self, rid: str, _pieces: int) -> None:
        self.rids[rid] = None

    def results(self) -> list[Transcript | openai.APIError]:
        """What each client got, or the error it raised."""
        results: list[Transcript | openai.APIError] = []
        for future in self._futures:
            error = future.exception()
            if error is None:
                results.append(future.result())
            else:
                assert isinstance(error, openai.APIError), error
                results.append(error)
        self._pool.shutdown()
        return results

    def assert_all_whole(self) -> None:
        for prompt, result in zip(self.prompts, self.results(), strict=True):
            assert isinstance(result, Transcript), result
            assert_whole(result, prompt, TOKENS)


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
