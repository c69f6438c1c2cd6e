"""Who is refused at the door, and what it is told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from edge.admission import Admitted
from edge.errors import Problem
from edge.forecast.door import Asking, Door, DoorLimits, asking_of
from edge.forecast.promises import PACE, RETRY_AFTER_MAX_S
from schemas import subjects
from schemas.dispatch import EdgeBeat, Leader
from schemas.ids import RequestId, TenantKey
from schemas.requests import RequestMeta
from tests.unit.edge.forecast.lines import CARD, state

LIMITS = DoorLimits(queue_max=40, queue_timeout_s=60.0, edge_interval_s=1.0)
ASKING = Asking("m", "standard", None, is_retry=False, deadline_s=0.0, queue_timeout_s=0.0)
FULL = Problem("queue_full", "full")
WAITING = 36
RATE = 4.0


def busy(*, waiting: int = WAITING) -> tuple[Door, float]:
    """A door that knows of four slots that take four requests per second, and of `waiting` that wait for them."""
    door, now = Door("e1", LIMITS), 1000.0
    for half in range(60):
        now += 0.5
        door.leader_heard(
            Leader("s", 1, waiting + 4, [state({"standard": waiting}, {"standard": 2 * half})]), now
        )
    return door, now


def refused(door: Door, asking: Asking, now: float, reason: str = "queue_full") -> float:
    """The seconds a client is told."""
    told = door.advise(Problem(reason, "no"), asking, now).retry_after_s
    assert told is not None
    return told


def test_what_a_request_asks() -> None:
    subject = subjects.request("batch", "m", TenantKey("public"), RequestId("r" * 20))
    meta = RequestMeta(queue_timeout_s=3.0, request_timeout_s=9.0)
    admitted = Admitted(CARD, subject, {}, meta)
    assert asking_of(admitted, {}) == Asking("m", "batch", None, False, 9.0, 3.0)
    headers = {"idempotency-key": "k", "x-stainless-retry-count": "2"}
    assert asking_of(admitted, headers) == Asking("m", "batch", ("public", "k"), True, 9.0, 3.0)
    for count in ("0", "00", "", "x", "-1", "²"):
        assert not asking_of(admitted, {"x-stainless-retry-count": count}).is_retry


def test_before_anything_is_known_everybody_is_let_in_and_nobody_is_told_a_time() -> None:
    door = Door("e1", LIMITS)
    assert door.judge(replace(ASKING, deadline_s=0.001), 1.0) is None
    assert door.advise(FULL, ASKING, 1.0) == FULL


def test_a_deadline_before_the_turn_is_refused() -> None:
    door, now = busy()
    assert door.judge(replace(ASKING, deadline_s=11.0), now) is None
    problem = door.judge(replace(ASKING, deadline_s=7.0), now)
    assert problem is not None
    assert problem.reason == "too_late"
    # 37 before it at 4 per second is 9.25 s: 2.25 s too long.
    assert refused(door, replace(ASKING, deadline_s=7.0), now, "too_late") == pytest.approx(2.5, abs=0.3)


def test_who_would_time_out_in_the_queue_for_certain_is_refused() -> None:
    door, now = busy()
    assert door.judge(replace(ASKING, queue_timeout_s=8.5), now) is None, "it may be lucky"
    problem = door.judge(replace(ASKING, queue_timeout_s=6.0), now)
    assert problem is not None
    assert problem.reason == "too_late"


def test_the_first_in_line_never_times_out_for_certain() -> None:
    """One slot, and requests that take a minute: the one that runs may end at any moment."""
    door, now = Door("e1", LIMITS), 1000.0
    for minute in range(10):
        for _ in range(60):
            now += 1.0
            door.leader_heard(Leader("s", 1, 1, [state({}, {"standard": minute}, slots=1)]), now)
    assert door.judge(replace(ASKING, queue_timeout_s=10.0), now) is None
    assert door.judge(replace(ASKING, deadline_s=10.0), now) is not None


def test_the_refused_are_told_one_time_each() -> None:
    door, now = busy()
    waits = [refused(door, ASKING, now) for _ in range(5)]
    gaps = [later - sooner for sooner, later in pairwise(waits)]
    assert gaps == pytest.approx([1 / (RATE * PACE)] * 4, rel=0.05)
    assert waits[0] >= 1.0, "what is kept free for those who come back is made first"


def test_edges_that_are_heard_share_the_places() -> None:
    door, now = busy()
    for edge in ("e1", "e2", "e3"):
        door.edge_heard(EdgeBeat(edge, []), now)
    first, second = refused(door, ASKING, now), refused(door, ASKING, now)
    assert second - first == pytest.approx(3 / (RATE * PACE), rel=0.05)
    door.edge_heard(EdgeBeat("e1", []), now + 9)
    third, fourth = refused(door, ASKING, now + 9), refused(door, ASKING, now + 9)
    assert fourth - third == pytest.approx(1 / (RATE * PACE), rel=0.05), "the others are silent"


def test_a_newcomer_does_not_take_a_promised_place() -> None:
    door, now = busy()
    assert door.judge(ASKING, now) is None, "nobody was promised anything: the broker decides"
    refused(door, ASKING, now)
    problem = door.judge(ASKING, now)
    assert problem is not None
    assert problem.reason == "queue_full"
    assert door.judge(replace(ASKING, is_retry=True), now) is None


def test_a_known_key_comes_back_as_well() -> None:
    door, now = busy()
    keyed = replace(ASKING, key=("public", "k"))
    refused(door, keyed, now)
    assert door.judge(keyed, now) is None
    assert door.judge(replace(ASKING, key=("other", "k")), now) is not None


def test_a_newcomer_takes_a_place_that_nobody_was_promised() -> None:
    door, now = busy()
    refused(door, ASKING, now)
    door.leader_heard(Leader("s", 1, 20, [state({"standard": 16}, {"standard": 118})]), now + 0.1)
    assert door.judge(ASKING, now + 0.1) is None


def test_who_could_run_at_once_is_let_in_whatever_was_promised() -> None:
    door, now = busy()
    for _ in range(200):
        refused(door, ASKING, now)
    for _ in range(20):
        now += 0.5
        door.leader_heard(Leader("s", 1, 0, [state({}, {"standard": 118}, free=4)]), now)
    assert door.judge(ASKING, now) is None


def test_places_are_not_kept_for_clients_that_never_come_back() -> None:
    door, now = busy()
    for _ in range(400):
        refused(door, ASKING, now)
    judged = []
    for half in range(100):
        now += 0.5
        busily = Leader("s", 1, 30, [state({"standard": 26}, {"standard": 118 + 2 * half})])
        door.leader_heard(busily, now)
        judged.append(door.judge(ASKING, now))
    assert any(problem is not None for problem in judged[:10])
    assert judged[-1] is None


def test_what_was_published_since_the_heartbeat_takes_places() -> None:
    door, now = busy()
    refused(door, ASKING, now)
    door.leader_heard(Leader("s", 1, 34, [state({"standard": 30}, {"standard": 118})]), now + 0.1)
    let_in = 0
    while door.judge(ASKING, now + 0.2) is None:
        door.publish(ASKING, now + 0.2)
        let_in += 1
    assert let_in == 2, "a tenth of the places is kept free"


def test_what_was_not_stored_took_no_place() -> None:
    door, now = busy()
    refused(door, ASKING, now)
    door.leader_heard(Leader("s", 1, 35, [state({"standard": 31}, {"standard": 118})]), now + 0.1)
    place = door.publish(ASKING, now + 0.2)
    assert door.judge(ASKING, now + 0.2) is not None
    door.withdraw(place)
    assert door.judge(ASKING, now + 0.2) is None


@pytest.mark.parametrize("reason", ["no_slot", "quota_exceeded"])
def test_other_bounds_of_a_model_have_lines_of_their_own(reason: str) -> None:
    door, now = busy()
    waits = [refused(door, ASKING, now, reason) for _ in range(20)]
    assert waits[-1] == pytest.approx(20 / (RATE * PACE), rel=0.05)
    assert refused(door, ASKING, now, reason) > refused(door, ASKING, now)


def test_who_timed_out_in_the_queue_is_told_when_its_turn_would_come_in_time() -> None:
    door, now = busy()
    assert refused(door, ASKING, now, "queue_timeout") < 0.5, "it would, now"
    impatient = replace(ASKING, queue_timeout_s=2.0)
    assert refused(door, impatient, now, "queue_timeout") == pytest.approx(9.25 - 2.5 + 0.5, abs=0.5)


def test_times_are_bounded() -> None:
    door, now = busy(waiting=9000)
    assert refused(door, ASKING, now, "output_full") == RETRY_AFTER_MAX_S
    idle, now = busy(waiting=0)
    idle.leader_heard(Leader("s", 1, 0, [state(taken={"standard": 118}, free=4)]), now)
    assert refused(idle, ASKING, now, "output_full") == 1.0


def test_what_has_nothing_to_do_with_the_line_is_left_as_it_is() -> None:
    door, now = busy()
    for problem in (
        Problem("bad_request", "no"),
        Problem("broker_away", "no"),
        Problem("rate_limited", "no", retry_after_s=7.0),
    ):
        assert door.advise(problem, ASKING, now) == problem
