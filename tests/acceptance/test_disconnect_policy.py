"""What becomes of a request whose last reader left is what its client asked for, also when its edge was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import httpx
import pytest

from bench.roles import RoleProcess
from bench.system import System
from bench.transcript import expected
from infra.ports import free_port
from tests.acceptance.conftest import StartSystem
from tests.acceptance.raw_client import attach, body_of, post, state
from tests.acceptance.tap import assert_clean

TOKENS = 150
LONG = 2000
ITL_MS = 10
GRACE_S = 1.0
LONG_GRACE_S = 3.0
"""Where somebody has to come before it is over."""

DEADLINE_S = 3.0
LATE_MAX_S = 2.0
EDGE_SILENT_S = 1.5
SOON_S = 8.0
AT_ONCE_S = 1.0


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(itl_ms=ITL_MS, ttft_ms=5, edge_silent_s=EDGE_SILENT_S, edge_interval_s=0.3)


@pytest.fixture
def doomed(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RoleProcess, str]]:
    """An edge on a port of its own that a test may kill, and its URL."""
    port, log_path = free_port(), tmp_path_factory.mktemp("edge") / "log"
    edge = RoleProcess("edge", "doomed", log_path, nats_url=system.nats_url, port=port)
    yield edge, f"http://127.0.0.1:{port}"
    edge.kill()


def leave(url: str, prompt: str, tokens: int, policy: str | None) -> tuple[str, float]:
    """Reads ten events and goes; the rid, and when it went."""
    headers = {} if policy is None else {"x_penstock_on_disconnect": policy}
    with post(url, body_of(prompt, tokens), **headers) as (answer, found):
        list(islice(found, 10))
        return str(answer.headers["x-request-id"]), time.monotonic()


def wait_for(system: System, rid: str, status: str, within_s: float = SOON_S) -> None:
    system.wait_until(lambda: state(system.url, rid)["status"] == status, f"{rid} is {status}", within_s)


@pytest.mark.parametrize("policy", [None, "cancel"])
def test_cancel_is_the_default_and_is_at_once(system: System, policy: str | None) -> None:
    took_s = []
    for number in range(3):
        rid, left = leave(system.url, f"cancel {policy} {number}", LONG, policy)
        wait_for(system, rid, "cancelled")
        took_s.append(time.monotonic() - left)
    assert min(took_s) < AT_ONCE_S, "what others took more, the machine added"


def test_detach_runs_to_the_end(system: System) -> None:
    rid, _ = leave(system.url, "detach", TOKENS, "detach")
    wait_for(system, rid, "completed")
    assert assert_clean(system.nats_url, [rid])[rid].text[0] == expected("detach", TOKENS)


def test_grace_cancels_when_nobody_came_back(system: System) -> None:
    rid, left = leave(system.url, "grace", LONG, f"grace={LONG_GRACE_S}")
    assert state(system.url, rid)["status"] == "running"
    wait_for(system, rid, "cancelled")
    assert time.monotonic() - left > LONG_GRACE_S * 0.8


def test_grace_is_over_when_somebody_came_back(system: System) -> None:
    rid, _ = leave(system.url, "back", 3 * TOKENS, f"grace={LONG_GRACE_S}")
    with attach(system.url, rid) as (_, found):
        assert "".join(event.text for event in found) == expected("back", 3 * TOKENS)
    assert state(system.url, rid)["status"] == "completed"


def test_the_last_reader_decides(system: System) -> None:
    with post(system.url, body_of("two", LONG), x_penstock_on_disconnect=f"grace={GRACE_S}") as (answer, one):
        rid = answer.headers["x-request-id"]
        next(one)
        with attach(system.url, rid) as (_, other):
            next(other)
        last = time.monotonic() + 2 * GRACE_S
        while time.monotonic() < last:
            next(one)  # the other one left longer ago than the grace, and this one still reads
    wait_for(system, rid, "cancelled")


def test_the_clients_of_a_killed_edge_count_as_gone_after_the_grace(
    system: System, doomed: tuple[RoleProcess, str]
) -> None:
    edge, url = doomed
    headers = {"x_penstock_on_disconnect": f"grace={GRACE_S}"}
    with post(url, body_of("orphan", LONG), **headers) as (answer, found):
        rid = answer.headers["x-request-id"]
        list(islice(found, 10))
        killed = time.monotonic()
        edge.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            list(found)
    wait_for(system, rid, "cancelled", within_s=EDGE_SILENT_S + GRACE_S + SOON_S)
    assert time.monotonic() - killed > GRACE_S


def test_a_deadline_of_the_request_ends_it(system: System) -> None:
    with post(system.url, body_of("deadline", LONG), x_penstock_deadline=str(DEADLINE_S)) as (answer, found):
        rid = answer.headers["x-request-id"]
        assert list(found)[-1].error == "request_timeout"
    page = state(system.url, rid)
    assert page["status"] == "expired"
    # The engine's clock makes up for nothing: a machine that stood still only made fewer of them.
    assert page["usage"]["completion_tokens"] < (DEADLINE_S + LATE_MAX_S) * 1000 / ITL_MS
