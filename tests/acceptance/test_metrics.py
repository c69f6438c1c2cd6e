"""What a running system says of itself: on every role's page, over several edges, across a killed worker, to NATS."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import nats
import pytest
from nats.aio.msg import Msg
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bench.roles import paused
from bench.system import System
from bench.worker_kill import kill_workers
from edge.scrape import SIBLINGS_WAIT_S
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.store import TARGETS_FILE
from infra.stream_states import ConsumerState, StreamState
from schemas import streams
from schemas.ids import ModelKey
from tests.acceptance.conftest import StartSystem

REQUESTS = 24
TOKENS = 5
PAGES = 3
LEAVING = 3
KILLED_TOKENS = 300
"""At the first of them it is looked up who makes them: he is still at it then."""

MODEL = "penstock-sim"


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(edges=2, workers=2, schedulers=2, itl_ms=5, ttft_ms=5)


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def samples(page: list[Metric], name: str, **labels: str) -> list[Sample]:
    return [
        sample
        for family in page
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def total(page: list[Metric], name: str, **labels: str) -> float:
    return sum(sample.value for sample in samples(page, name, **labels))


def edges(system: System) -> list[Metric]:
    """The page of all edges, once none was left out of it for being slow."""
    names = {process.id for process in system.processes("edge")}
    found: list[list[Metric]] = []

    def is_whole() -> bool:
        begun = time.monotonic()
        page = families(httpx.get(f"{system.url}/metrics").text)
        shown = {sample.labels["edge"] for sample in samples(page, "penstock_build_info")}
        found.append(page)
        assert shown == names or time.monotonic() - begun >= SIBLINGS_WAIT_S, "nobody was waited for"
        return shown == names

    system.wait_until(is_whole, "all edges are on the page")
    return found[-1]


def targets(system: System) -> list[dict[str, Any]]:
    return list(json.loads((system.store / TARGETS_FILE).read_text()))


def pages(system: System, role: str) -> list[list[Metric]]:
    """As Prometheus would get them."""
    addresses = [one["targets"][0] for one in targets(system) if one["labels"]["role"] == role]
    return [families(httpx.get(f"http://{address}/metrics").text) for address in addresses]


def sum_of(system: System, role: str, name: str, **labels: str) -> float:
    return sum(total(page, name, **labels) for page in pages(system, role))


def led(system: System) -> list[Metric]:
    """The page of the scheduler that leads."""
    [leader] = [page for page in pages(system, "scheduler") if total(page, "penstock_leader") == 1]
    return leader


def ask(system: System, number: int) -> int:
    """On a connection of its own, which any edge may get."""
    body = {"stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": f"m {number}"}]}
    answer = httpx.post(f"{system.url}/v1/chat/completions", json=body, timeout=30)
    return answer.status_code


def test_edges_of_one_address_answer_together(system: System) -> None:
    before = total(edges(system), "penstock_requests_total", code="200")
    with ThreadPoolExecutor(8) as pool:
        assert Counter(pool.map(lambda number: ask(system, number), range(REQUESTS))) == {200: REQUESTS}

    def are_counted() -> bool:
        page = edges(system)
        ended = total(page, "penstock_request_duration_seconds_count")
        return ended >= REQUESTS and total(page, "penstock_inflight_requests") == 0

    # An edge counts an answer once its client has all of it.
    system.wait_until(are_counted, "all are counted")
    names = {process.id for process in system.processes("edge")}
    for page in [edges(system) for _ in range(6)]:
        shown = samples(page, "penstock_requests_total", code="200")
        assert {sample.labels["edge"] for sample in shown} <= names
        assert total(page, "penstock_requests_total", code="200") - before == REQUESTS
        assert total(page, "penstock_time_to_first_token_seconds_count") == total(
            page, "penstock_request_duration_seconds_count"
        )
        assert total(page, "penstock_inflight_requests") == 0
    assert sum_of(system, "edge", "penstock_requests_total", code="200") - before == REQUESTS
    assert not [
        sample
        for page in pages(system, "edge")
        for f in page
        for sample in f.samples
        if "edge" in sample.labels
    ]


def test_openmetrics_lead_from_times_to_traces(system: System) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    body = {"stream": True, "max_tokens": 2, "messages": [{"role": "user", "content": "traced"}]}
    assert httpx.post(f"{system.url}/v1/chat/completions", json=body, headers=headers).status_code == 200

    def told() -> set[str]:
        answer = httpx.get(
            f"{system.url}/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
        )
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        return {
            sample.name
            for family in open_families(answer.text)  # type: ignore[no-untyped-call]
            for sample in family.samples
            if sample.exemplar is not None and sample.exemplar.labels == {"trace_id": trace_id}
        }

    times = {"penstock_time_to_first_token_seconds_bucket", "penstock_request_duration_seconds_bucket"}
    system.wait_until(lambda: told() == times, "both times lead to the trace")


def test_an_edge_that_hangs_costs_the_page_a_moment(system: System) -> None:
    hung, other = system.processes("edge")
    took_s: list[float] = []
    with paused(hung.pid):
        deadline = time.monotonic() + 40
        while len(took_s) < PAGES:
            assert time.monotonic() < deadline
            begun = time.monotonic()
            try:  # the kernel gives connections to the hung one, too
                answered = httpx.get(f"{system.url}/metrics", timeout=2)
            except httpx.TimeoutException:
                continue
            took_s.append(time.monotonic() - begun)
            page = families(answered.text)
            assert {sample.labels["edge"] for sample in samples(page, "penstock_build_info")} == {other.id}
    assert SIBLINGS_WAIT_S <= min(took_s) < SIBLINGS_WAIT_S + 1, "what others took more, the machine added"


def test_one_scheduler_leads_and_knows_the_system(system: System) -> None:
    def is_idle() -> bool:
        return total(led(system), "penstock_free_slots") == total(led(system), "penstock_slots") > 0

    system.wait_until(is_idle, "all slots are free")
    leader = led(system)
    assert len(pages(system, "scheduler")) == 2
    assert total(leader, "penstock_model_workers", model=MODEL) == 2
    assert total(leader, "penstock_slots", model=MODEL) == total(leader, "penstock_free_slots") > 0
    assert total(leader, "penstock_saturation", model=MODEL) == 0
    assert len(samples(leader, "penstock_queued_requests", model=MODEL)) == 3
    assert sum_of(system, "scheduler", "penstock_slots") == total(leader, "penstock_slots"), (
        "standbys add nothing"
    )
    assert (
        total(leader, "penstock_request_queue_time_seconds_count", model=MODEL, klass="standard") >= REQUESTS
    )

    def has_asked_the_server() -> bool:
        return sum_of(system, "scheduler", "gnatsd_varz_connections") >= 6

    # It does so every few seconds, and not before it leads.
    system.wait_until(has_asked_the_server, "the leader has asked the server", 15)


def test_a_killed_worker_is_told_of(system: System) -> None:
    redelivered = sum_of(system, "scheduler", "penstock_redeliveries_total")
    lost = sum_of(system, "scheduler", "penstock_workers_lost_total")
    before = targets(system)
    [stall_s] = kill_workers(system, 1, KILLED_TOKENS)
    assert stall_s < 10
    assert sum_of(system, "scheduler", "penstock_redeliveries_total") == redelivered + 1
    assert sum_of(system, "scheduler", "penstock_workers_lost_total") == lost + 1
    again = [
        sample
        for page in pages(system, "worker")
        for sample in samples(page, "penstock_attempts_total", model=MODEL)
        if sample.labels["cause"] != "first"
    ]
    assert sum(sample.value for sample in again) == 1
    assert sum_of(system, "worker", "penstock_tokens_total", kind="replayed") > 0
    assert {one["labels"]["process"] for one in targets(system)} == {
        one["labels"]["process"] for one in before
    }
    ids = {process.id for process in system.processes() if process.role != "broker"}
    assert len(targets(system)) == len(ids)


def test_jetstreams_figures_are_its_own(system: System) -> None:
    async def look() -> tuple[StreamState, ConsumerState | None]:
        bus = await Bus.connect(system.nats_url, name="test", fail=print)
        js = JetStream(bus)
        [_, spec, _] = streams.consumers_of(ModelKey(MODEL), ack_wait_s=10, queue_max=1)
        try:
            return await js.usage(streams.OUTPUT), await js.consumer_state(spec)
        finally:
            await bus.close()

    def agrees() -> bool:
        output, consumer = asyncio.run(look())
        assert consumer is not None
        page = led(system)
        of = {"stream_name": "OUTPUT"}
        shown = [
            total(page, f"jetstream_stream_{name}", **of)
            for name in ("total_messages", "total_bytes", "first_seq", "last_seq")
        ]
        delivered = total(
            page, "jetstream_consumer_delivered_consumer_seq", consumer_name=f"standard-{MODEL}"
        )
        expected = [output.messages, output.bytes, output.first_seq, output.last_seq]
        return shown == expected and delivered == consumer.delivered_consumer_seq

    system.wait_until(agrees, "the leader has looked", 15)


def test_every_role_answers_the_tools_of_nats(system: System) -> None:
    async def ask_all(subject: str) -> list[dict[str, Any]]:
        client = await nats.connect(system.nats_url)
        answers: list[dict[str, Any]] = []

        async def on_answer(message: Msg) -> None:
            answers.append(json.loads(message.data))

        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=on_answer)
        await client.publish(subject, b"", reply=inbox)
        deadline = time.monotonic() + 5
        while len(answers) < 6 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await client.close()
        return answers

    pinged = asyncio.run(ask_all("$SRV.PING"))
    expected = {"penstock-edge": 2, "penstock-scheduler": 2, "penstock-worker": 2}
    assert Counter(one["name"] for one in pinged) == expected
    assert {one["type"] for one in pinged} == {"io.nats.micro.v1.ping_response"}
    stats = asyncio.run(ask_all("$SRV.STATS"))
    worked = [one["endpoints"][0] for one in stats if one["name"] == "penstock-worker"]
    assert {one["name"] for one in worked} == {"work"}
    assert sum(one["num_requests"] for one in worked) > 0
    assert all(one["average_processing_time"] > 0 for one in worked if one["num_requests"])

    async def ask_one() -> dict[str, Any]:
        client = await nats.connect(system.nats_url)
        one = pinged[0]
        answer = await client.request(f"$SRV.INFO.{one['name']}.{one['id']}", timeout=5)
        await client.close()
        return dict(json.loads(answer.data))

    info = asyncio.run(ask_one())
    assert (info["name"], info["id"], info["version"]) == tuple(
        pinged[0][key] for key in ("name", "id", "version")
    )
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert {"name", "subject", "queue_group", "metadata"} == set(info["endpoints"][0])


def test_what_a_client_does_is_counted(system: System) -> None:
    before = edges(system)
    assert httpx.post(f"{system.url}/v1/chat/completions", json={}).status_code == 400
    body = {"stream": True, "max_tokens": 3000, "messages": [{"role": "user", "content": "leaves"}]}
    for _ in range(LEAVING):
        with httpx.stream("POST", f"{system.url}/v1/chat/completions", json=body, timeout=30) as answer:
            next(answer.iter_lines())

    def grown(name: str) -> float:
        return total(edges(system), name) - total(before, name)

    system.wait_until(lambda: grown("penstock_disconnected_clients_total") == LEAVING, "they have left", 10)
    system.wait_until(lambda: grown("penstock_cancels_total") == LEAVING, "they are cancelled", 10)
    assert grown("penstock_rejects_total") == 1

    def freed(**labels: str) -> float:
        of = "bucket" if labels else "count"
        return sum_of(system, "worker", f"penstock_cancel_to_free_seconds_{of}", **labels)

    system.wait_until(lambda: freed() >= LEAVING, "their slots are free", 10)
    assert freed(le="1.0") > LEAVING / 2, "what others took more, the machine added"


def test_targets_go_with_the_system(start_system: StartSystem) -> None:
    alone = start_system(itl_ms=1, ttft_ms=1)
    assert {one["labels"]["process"] for one in targets(alone)} == {"scheduler-1", "worker-1", "edge-1"}
    page = families(httpx.get(f"{alone.url}/metrics").text)
    assert not [sample for family in page for sample in family.samples if "edge" in sample.labels]
    [worker] = alone.processes("worker")
    alone.kill(worker)
    alone.wait_replaced(worker)

    def is_true() -> bool:
        return {one["labels"]["process"] for one in targets(alone)} == {"scheduler-1", "worker-1", "edge-1"}

    alone.wait_until(is_true, "the new worker is listed", 10)
    assert len(pages(alone, "worker")) == 1
    assert alone.stop() == 0
    assert not (alone.store / TARGETS_FILE).exists()
