"""Traces of a whole system in a viewer that others make: what it shows of a request is one tree, whatever happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bench.system import Process, System
from bench.transcript import MODEL, assert_whole, stream
from bench.worker_kill import worker_of
from infra import trace_names as names
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas import subjects
from schemas.ids import ANONYMOUS
from schemas.output import End
from schemas.trace import context_of, root_span_id
from tests.phoenix.viewer import PROGRAM, Phoenix, Seen, tree

TOKENS = 300
"""Three seconds of them: enough to find out who makes them, and to kill it, also on a busy machine."""

WARM_UPS_MAX = 10
WARM_UP_S = 5.0
PROCESS = f"process {subjects.REQUESTS_NAME}"
PUBLISH = f"publish {subjects.REQUESTS_NAME}"
CALL = ("POST /v1/chat/completions", PUBLISH, "deliver")
USAGE = (names.GEN_AI_USAGE_INPUT, names.GEN_AI_USAGE_OUTPUT)

pytestmark = [
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        not PROGRAM.exists(), reason="no Phoenix in .phoenix: `make venv-phoenix` puts it there"
    ),
]


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    viewer = Phoenix(tmp_path_factory.mktemp("phoenix"))
    yield viewer
    viewer.stop()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, phoenix: Phoenix) -> Iterator[System]:
    system = System(
        tmp_path_factory.mktemp("store"),
        workers=2,
        itl_ms=10,
        ttft_ms=20,
        otlp_endpoint=phoenix.otlp_endpoint,
    )
    warm_up(system, phoenix)
    yield system
    assert system.stop() == 0


def warm_up(system: System, phoenix: Phoenix) -> None:
    """The viewer's first calls may take it longer than a process waits for a collector: what is sent then is lost."""

    def is_whole(spans: list[Seen]) -> bool:
        return {PUBLISH, "hold", "batch", PROCESS, "lease", "ack", "deliver"} <= {span.name for span in spans}

    for _ in range(WARM_UPS_MAX):
        rid = stream(system.url, "warm", 4).rid
        if is_whole(phoenix.spans_within(rid, WARM_UP_S, is_whole)):
            return
    pytest.fail("no trace arrives as a whole")


def named(spans: list[Seen], name: str) -> list[Seen]:
    return [span for span in spans if span.name == name]


def has(spans: list[Seen], *wanted: str) -> bool:
    """Whether all of these have come: each process sends its own, and when it likes."""
    return set(wanted) <= {span.name for span in spans}


def one(spans: list[Seen], name: str) -> Seen:
    found = named(spans, name)
    assert len(found) == 1, f"{name}:\n{tree(spans)}"
    return found[0]


def assert_one_tree(spans: list[Seen]) -> None:
    """All spans but those of batches are of one trace, and under one root."""
    own = [span for span in spans if span.name != "batch"]
    assert len({span.trace_id for span in own}) == 1, tree(spans)
    ids = {span.span_id for span in own}
    roots = [span for span in own if span.parent_id not in ids]
    assert len(roots) == 1, tree(spans)
    assert not roots[0].parent_id, tree(spans)


def with_usage(spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if any(key in span.attributes for key in USAGE)]


def test_a_request_whose_worker_is_killed_is_one_tree_with_two_attempts(
    system: System, phoenix: Phoenix
) -> None:
    killed: list[Process] = []

    def kill_once(rid: str, pieces: int) -> None:
        if pieces >= 20 and not killed:
            killed.append(worker_of(system, rid))
            system.kill(killed[0])

    transcript = stream(system.url, "a tale", TOKENS, kill_once)
    assert_whole(transcript, "a tale", TOKENS)
    spans = phoenix.spans_of(
        transcript.rid,
        lambda found: (
            all(len(named(found, name)) == 2 for name in (PROCESS, "hold", "batch"))
            and has(found, *CALL, "ack", "worker gone")
        ),
    )
    print(tree(spans))
    assert_one_tree(spans)
    first, second = named(spans, PROCESS)
    publish = one(spans, PUBLISH)
    assert publish.parent_id == one(spans, "POST /v1/chat/completions").span_id
    assert first.parent_id == second.parent_id == publish.span_id
    assert (first.status, second.status) == ("ERROR", "UNSET")

    assert str(first.attributes[names.WORKER]).startswith(killed[0].id)
    assert first.attributes[names.OUTCOME] == "lost"
    assert first.attributes[names.REPORTED_BY] == second.attributes[names.WORKER]
    assert first.start < first.end < second.start
    assert second.attributes[names.OUTCOME] == "ok"
    assert second.attributes[names.LINK] == ["batch", f"attempt {first.attributes[names.ATTEMPT]}"]
    assert first.attributes[names.TOKENS] + second.attributes[names.TOKENS] == TOKENS
    assert second.attributes[names.OFFSET] == first.attributes[names.TOKENS] >= 20

    children = {span.name for span in spans if span.parent_id == second.span_id}
    assert children == {"lease", "prefill", "decode", "END", "ack", f"chat {MODEL}"}
    assert named(spans, "worker gone")
    assert [span.attributes[names.DELIVERY] for span in named(spans, "hold")] == [1, 2]

    (used,) = with_usage(spans)
    assert used.name == f"chat {MODEL}"
    assert used.attributes[names.GEN_AI_USAGE_OUTPUT] == TOKENS
    assert used.attributes[names.GEN_AI_LATENCY_FIRST_TOKEN] < used.attributes[names.GEN_AI_LATENCY_E2E]

    batches = named(spans, "batch")
    assert len(batches) == 2
    assert {batch.trace_id for batch in batches} & {publish.trace_id} == set(), (
        "a batch has a trace of its own"
    )
    assert all(batch.attributes[names.REQUEST_IDS] == [transcript.rid] for batch in batches)


def test_a_direct_publishers_request_has_a_root_of_its_own(system: System, phoenix: Phoenix) -> None:
    rid = "direct0000000000000000001"

    async def publish() -> None:
        bus = await Bus.connect(system.nats_url, name="direct", fail=print)
        try:
            js, subject = JetStream(bus), subjects.request("standard", MODEL, ANONYMOUS, rid)
            assert (await js.publish(subject, b'{"prompt": "a river", "max_tokens": 8}')).stored
            log = OutputLog(js)
            async with asyncio.timeout(20):
                while (last := await log.last_ctl(ANONYMOUS, rid)) is None or not isinstance(
                    last.record, End
                ):
                    await asyncio.sleep(0.02)
            assert last.record.status == "ok"
        finally:
            await bus.close()

    asyncio.run(publish())
    spans = phoenix.spans_of(rid, lambda found: has(found, PUBLISH, "queue", "hold", PROCESS, "ack"))
    assert_one_tree(spans)
    root = one(spans, PUBLISH)
    assert (root.parent_id, root.span_id) == ("", root_span_id(ANONYMOUS, rid))
    assert root.trace_id == context_of(ANONYMOUS, rid, "", ratio=1).trace_id
    assert {span.name for span in spans if span.parent_id == root.span_id} == {"queue", "hold", PROCESS}
    assert len(with_usage(spans)) == 1


def test_a_cancel_is_seen_where_it_took_effect(system: System, phoenix: Phoenix) -> None:
    given = "00-" + "a1" * 16 + "-" + "b2" * 8 + "-01"
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "on and on"}],
        "max_tokens": 2000,
        "stream": True,
    }
    rid = ""
    with (
        httpx.Client(base_url=system.url, timeout=30) as http,
        http.stream("POST", "/v1/chat/completions", json=body, headers={"traceparent": given}) as answer,
    ):
        rid = answer.headers["x-request-id"]
        for number, _ in enumerate(answer.iter_lines()):
            if number == 10:
                assert httpx.delete(f"{system.url}/v1/requests/{rid}", timeout=30).is_success
    spans = phoenix.spans_of(rid, lambda found: has(found, *CALL, PROCESS))
    call = one(spans, "POST /v1/chat/completions")
    assert (call.trace_id, call.parent_id) == ("a1" * 16, "b2" * 8), "in the trace of whoever asked"
    attempt = one(spans, PROCESS)
    assert attempt.trace_id == call.trace_id
    assert attempt.attributes[names.OUTCOME] == "cancelled"
    assert {"cancel seen", "END found"} <= set(attempt.events)
    assert not with_usage(spans), "the attempt did not end it"
