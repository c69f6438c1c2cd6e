"""DELETE at any edge, and a cancel over NATS: in every state a request can be in."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import nats
import pytest

from bench.system import System
from bench.transcript import assert_whole, expected, stream
from schemas import subjects
from schemas.output import End, encode
from tests.acceptance.conftest import StartSystem
from tests.acceptance.raw_client import body_of, cancel, post, state
from tests.acceptance.tap import assert_clean, stream_messages

LONG = 3000


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    """Two edges on one port: each new connection may be at either. One slot, so that a second request waits."""
    return start_system(edges=2, slots=1, itl_ms=10, ttft_ms=5)


def test_a_running_request_ends_at_once_and_its_client_is_told(system: System) -> None:
    took_s = []
    for number in range(3):
        prompt = f"running {number}"
        with post(system.url, body_of(prompt, LONG)) as (answer, found):
            rid = answer.headers["x-request-id"]
            first = list(islice(found, 10))
            assert cancel(system.url, rid)["status"] == "cancelled"
            cancelled_at = time.monotonic()
            rest = list(found)
        assert rest[-1].error == "cancelled"
        text = "".join(event.text for event in first + rest)
        assert expected(prompt, LONG).startswith(text)
        after = stream(system.url, f"after {number}", 5)  # there is one slot: it is free
        assert_whole(after, f"after {number}", 5)
        took_s.append(time.monotonic() - cancelled_at)
        log = assert_clean(system.nats_url, [rid])[rid]
        assert log.status == "cancelled"
        assert log.text[0] == text, (
            "what was stored before the END was shown, and nothing was stored after it"
        )
    assert min(took_s) < 1, "what others took more, the machine added"


def test_a_waiting_request_is_never_run(system: System) -> None:
    with post(system.url, body_of("in the way", LONG)) as (_, found):
        next(found)
        with ThreadPoolExecutor(1) as pool:
            head: list[str] = []

            def wait() -> int:
                with post(system.url, body_of("waiting", 5)) as (answer, events):
                    head.append(answer.headers["x-request-id"])
                    return answer.status_code + 0 * len(list(events))

            waiting = pool.submit(wait)
            system.wait_until(lambda: stream_messages(system.nats_url, "REQUESTS") == 2, "it waits")
            rid = queued_rid(system)
            assert state(system.url, rid)["status"] == "queued"
            assert cancel(system.url, rid)["status"] == "cancelled"
            system.wait_until(
                lambda: stream_messages(system.nats_url, "REQUESTS") == 1, "it left the queue", 5
            )
            assert waiting.result(10) == 499
        assert head == [rid]
    log = assert_clean(system.nats_url, [rid])[rid]
    assert log.status == "cancelled"
    assert not log.leases


def test_what_has_finished_stays_finished(system: System) -> None:
    done = stream(system.url, "done", 5)
    assert_whole(done, "done", 5)
    assert cancel(system.url, done.rid)["status"] == "completed"
    assert cancel(system.url, done.rid)["status"] == "completed"
    assert assert_clean(system.nats_url, [done.rid])[done.rid].status == "ok"


def test_what_does_not_exist_is_404(system: System) -> None:
    assert cancel(system.url, "a" * 26) == {"status": 404}


def test_a_stranger_cancels_over_nats(system: System) -> None:
    with post(system.url, body_of("by nats", LONG)) as (answer, found):
        rid = answer.headers["x-request-id"]
        next(found)
        asyncio.run(cancel_by_nats(system.nats_url, rid))
        assert list(found)[-1].error == "cancelled"
    assert_whole(stream(system.url, "after nats", 5), "after nats", 5)
    assert assert_clean(system.nats_url, [rid])[rid].status == "cancelled"


def queued_rid(system: System) -> str:
    """The rid of the newest message of REQUESTS."""

    async def look() -> str:
        client = await nats.connect(system.nats_url)
        try:
            js = client.jetstream()
            last = (await js.stream_info("REQUESTS")).state.last_seq
            message = await js.get_msg("REQUESTS", last)
        finally:
            await client.close()
        parsed = subjects.parse_request(message.subject or "")
        assert parsed is not None
        return parsed.rid

    return asyncio.run(look())


async def cancel_by_nats(nats_url: str, rid: str) -> None:
    """END by compare-and-set on the last ctl record, then the hint: all it takes."""
    client = await nats.connect(nats_url)
    js = client.jetstream()
    ctl = subjects.output_ctl("public", rid)
    last = await js.get_last_msg("OUTPUT", ctl)
    end = End(status="cancelled", reason="cancelled", message="cancelled by a stranger")
    await js.publish(ctl, encode(end), headers={"Nats-Expected-Last-Subject-Sequence": str(last.seq)})
    await client.publish(subjects.cancel("public", rid), b"{}")
    await client.close()
