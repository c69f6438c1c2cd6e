"""What a scheduler counts of events and actions."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter
from prometheus_client.registry import Collector

from scheduler import events, metrics
from scheduler.core import Core
from scheduler.counting import Counting
from schemas.dispatch import Leader, ModelCard, ModelState, Work, WorkItem
from schemas.ids import RequestId, TenantKey, WorkerId
from schemas.output import Cause, End, Status
from schemas.requests import RequestMeta
from tests.unit.scheduler.world import LIMITS

CARD = ModelCard("counted-1", "Counted/1", "e", 100, 10)
NAME = TenantKey("t"), RequestId("r" * 16)


def value(collector: Collector, suffix: str = "", **labels: str) -> float | None:
    """None: there is no such series."""
    found = [
        sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name.endswith(suffix) and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


def leading() -> tuple[Core, Counting]:
    core = Core("s", LIMITS)
    core.handle(events.ConnectionChanged(True), 0.0)
    core.handle(events.BecameLeader(1, []), 0.0)
    return core, Counting(core)


def announced(counting: Counting) -> None:
    state = ModelState(CARD, 2, 8, 2, 0.0, waiting={"standard": 5})
    counting.wanted(events.Announce(Leader("s", 1, 7, [state], 0.25)))
    counting.refresh()


def test_what_the_leader_says_is_shown() -> None:
    _, counting = leading()
    announced(counting)
    of: dict[str, Any] = {"model": "Counted/1"}
    assert value(metrics.LEADER) == 1
    assert value(metrics.QUEUED_REQUESTS, klass="standard", **of) == 5
    assert value(metrics.QUEUED_REQUESTS, klass="batch", **of) == 0
    assert (value(metrics.WORKERS, **of), value(metrics.SLOTS, **of)) == (2, 8)
    assert (value(metrics.FREE_SLOTS, **of), value(metrics.SATURATION, **of)) == (2, 0.75)
    assert value(metrics.OUTPUT_USED) == 0.25


def test_who_leads_no_more_shows_nothing_of_the_system() -> None:
    core, counting = leading()
    announced(counting)
    core.handle(events.LostLeadership(), 1.0)
    counting.came(events.LostLeadership())
    counting.refresh()
    assert (value(metrics.LEADER), value(metrics.OUTPUT_USED)) == (0, 0)
    assert value(metrics.SLOTS) is None
    assert value(metrics.QUEUED_REQUESTS) is None


def test_causes_and_waits_of_what_workers_take() -> None:
    def item(cause: Cause) -> WorkItem:
        return WorkItem("r", "t", "a", 1, 0, cause, 2.0, RequestMeta(), b"")

    _, counting = leading()
    before = value(metrics.REDELIVERIES, "_total", cause="worker_dead") or 0
    waited = value(metrics.QUEUE_TIME, "_count", model="unknown") or 0
    causes: list[Cause] = ["first", "first", "worker_dead", "worker_dead"]
    offer = events.Offer(WorkerId("gone"), Work(1, [item(cause) for cause in causes]))
    counting.offer(offer)(["accepted", "full", "mine", "done"])
    assert value(metrics.REDELIVERIES, "_total", cause="worker_dead") == before + 1
    assert value(metrics.QUEUE_TIME, "_count", model="unknown") == waited + 1
    counting.offer(offer)(["accepted"])
    assert value(metrics.QUEUE_TIME, "_count", model="unknown") == waited + 2, (
        "a worker may answer too little"
    )


def test_the_first_lost_worker_of_a_kind_is_a_growth() -> None:
    """A series that begins at 1 has not grown for Prometheus."""
    for reason in ("disconnected", "silent", "restarted"):
        assert value(metrics.WORKERS_LOST, "_total", reason=reason) is not None


def test_ends_are_counted_as_what_they_are() -> None:
    _, counting = leading()

    def close(status: Status, reason: str) -> events.Close:
        return events.Close(*NAME, End(status=status, reason=reason), None)

    counters: tuple[Counter, ...] = (
        metrics.EXPIRED,
        metrics.REFUSED,
        metrics.LEADER_CANCELS,
        metrics.WORKERS_LOST,
    )
    before = [value(counter, "_total") or 0 for counter in counters]
    counting.wanted(close("expired", "queue_timeout"))
    counting.wanted(close("error", "bad_request"))
    counting.wanted(events.Cancel(*NAME, End(status="cancelled", reason="cancelled"), True, ""))
    counting.wanted(events.WorkerGone(WorkerId("w"), "silent", 3))
    assert [value(counter, "_total") for counter in counters] == [one + 1 for one in before]
