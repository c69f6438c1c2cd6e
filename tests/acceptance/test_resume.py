"""A stream that was cut is read on at another edge: exactly the events after the last one seen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import httpx
import pytest

from bench.roles import RoleProcess
from bench.system import System
from bench.transcript import expected, stream
from bench.worker_kill import worker_of
from infra.ports import free_port
from tests.acceptance.conftest import StartSystem
from tests.acceptance.raw_client import Event, attach, body_of, post, state
from tests.acceptance.tap import assert_clean
from workers.engines.simulator import reference_text

TOKENS = 120
LONG_TOKENS = 240
"""For what has to be done while the request runs, on a busy machine too."""

GRACE = {"x_penstock_on_disconnect": "grace=30"}


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


@pytest.mark.parametrize("dialect", ["chat", "completion"])
@pytest.mark.parametrize("by_query", [False, True], ids=["Last-Event-ID", "starting_after"])
def test_the_other_edge_goes_on_after_the_last_event_seen(
    system: System, other_url: str, dialect: str, by_query: bool
) -> None:
    prompt = f"cut {dialect} {by_query}"
    with post(system.url, body_of(prompt, TOKENS, dialect), dialect, **GRACE) as (answer, found):
        rid = answer.headers["x-request-id"]
        first = list(islice(found, 10))
    with attach(other_url, rid, first[-1].id, by_query=by_query) as (_, found):
        rest = list(found)
    reference = expected(prompt, TOKENS) if dialect == "chat" else reference_text(prompt, 0, TOKENS)
    assert "".join(event.text for event in first + rest) == reference
    ids = [event.id for event in first + rest]
    assert len(set(ids)) == len(ids), "no event came twice"
    with attach(system.url, rid) as (_, found):
        assert list(found) == first + rest, "read again from its beginning it is the same, event for event"
    log = assert_clean(system.nats_url, [rid])[rid]
    assert log.causes == ["first"], "resuming runs nothing"


def test_a_worker_that_dies_while_nobody_reads_changes_nothing(system: System, other_url: str) -> None:
    with post(system.url, body_of("unseen", LONG_TOKENS), **GRACE) as (answer, found):
        rid = answer.headers["x-request-id"]
        first = list(islice(found, 10))
    victim = worker_of(system, rid)
    system.kill(victim)
    with attach(other_url, rid, first[-1].id) as (_, found):
        rest = list(found)
    assert "".join(event.text for event in first + rest) == expected("unseen", LONG_TOKENS)
    system.wait_replaced(victim)


def test_the_streams_of_a_killed_edge_are_read_on_at_the_other(system: System, other_url: str) -> None:
    (victim,) = system.processes("edge")
    first: list[Event] = []
    with post(system.url, body_of("killed", LONG_TOKENS), **GRACE) as (answer, found):
        rid = answer.headers["x-request-id"]
        first += islice(found, 10)
        system.kill(victim)
        with pytest.raises(httpx.RemoteProtocolError):
            first.extend(found)  # what was under way arrives, then the connection breaks
    with attach(other_url, rid, first[-1].id) as (_, found):
        rest = list(found)
    assert "".join(event.text for event in first + rest) == expected("killed", LONG_TOKENS)
    system.wait_replaced(victim)


def test_a_finished_request_is_shown_and_replayed_at_any_edge(system: System, other_url: str) -> None:
    done = stream(system.url, "finished", 20)
    for url in (system.url, other_url):
        shown = state(url, done.rid)
        assert shown["object"] == "request"
        assert shown["id"] == done.rid
        assert shown["status"] == "completed"
        assert done.text in str(shown), "with its output"
        with attach(url, done.rid) as (_, found):
            assert "".join(event.text for event in found) == done.text


def test_a_running_request_shows_how_far_it_is(system: System, other_url: str) -> None:
    with post(system.url, body_of("half", LONG_TOKENS)) as (answer, found):
        rid = answer.headers["x-request-id"]
        seen = "".join(event.text for event in islice(found, 20))
        shown = state(other_url, rid)
        assert shown["status"] == "running"
        assert seen[:40] in str(shown), "with the output so far"
        assert seen + "".join(event.text for event in found) == expected("half", LONG_TOKENS)


@pytest.mark.parametrize("rid", ["a" * 26, "no-such-rid", "*"])
def test_what_does_not_exist_is_404(system: System, rid: str) -> None:
    assert state(system.url, rid) == {"status": 404}
    with attach(system.url, rid) as (answer, _):
        assert answer.status_code == 404
