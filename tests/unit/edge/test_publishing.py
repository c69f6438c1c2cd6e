"""One request's way into the queue, in simulated time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from edge.errors import Problem
from edge.publishing import RETRY_WAIT_S, TRY_TIMEOUT_S, Done, Hold, Look, Publishing, Send, Step
from infra.jetstream import FULL, ID_IN_PROCESS, IN_PROCESS, SERVICE_UNAVAILABLE, PubAck
from schemas.ids import RequestId

RID = RequestId("a" * 26)
TIMEOUT_S = 5.0
STORED, DUPLICATE = PubAck(seq=1), PubAck(seq=1, duplicate=True)


def refused(err_code: int) -> PubAck:
    return PubAck(err_code=err_code, description="no")


def way() -> Publishing:
    return Publishing(RID, "f", give_up_at=TIMEOUT_S)


def reason(step: Step) -> str:
    assert isinstance(step, Done)
    assert isinstance(step.problem, Problem)
    return step.problem.reason


def test_one_try_is_enough_when_all_is_well() -> None:
    request = way()
    assert request.proceed(0.0, connected=True) == Send(TRY_TIMEOUT_S)
    assert request.acked(STORED) == Done(None)


def test_a_duplicate_is_looked_at_and_attached_to() -> None:
    request = way()
    assert request.acked(DUPLICATE) == Look()
    assert request.found("f") == Done(None)


@pytest.mark.parametrize("ack", [DUPLICATE, refused(FULL)])
def test_the_same_rid_with_another_body_is_a_mismatch(ack: PubAck) -> None:
    request = way()
    assert request.acked(ack) == Look()
    assert reason(request.found("g")) == "idempotency_mismatch"


def test_a_refused_publish_of_what_is_there_is_as_good_as_stored() -> None:
    request = way()
    assert request.acked(refused(FULL)) == Look()
    assert request.found("f") == Done(None)


def test_a_request_that_ended_before_anything_told_its_body_is_attached_to() -> None:
    request = way()
    request.acked(DUPLICATE)
    assert request.found("") == Done(None)


def test_a_full_queue_without_the_request_is_a_known_refusal() -> None:
    request = way()
    assert request.acked(refused(FULL)) == Look()
    assert reason(request.found(None)) == "queue_full"


def test_after_an_unanswered_try_a_full_queue_is_no_known_refusal() -> None:
    """Its bytes may still lie in a connection that the broker has not read to the end."""
    request = way()
    assert request.unanswered() == Hold(RETRY_WAIT_S)
    request.acked(refused(FULL))
    assert reason(request.found(None)) == "outcome_unknown"


def test_a_duplicate_of_nothing_is_a_lost_log() -> None:
    request = way()
    request.acked(DUPLICATE)
    assert reason(request.found(None)) == "log_lost"


@pytest.mark.parametrize("code", [IN_PROCESS, SERVICE_UNAVAILABLE])
def test_a_broker_that_cannot_say_yet_is_asked_again(code: int) -> None:
    request = way()
    assert request.acked(refused(code)) == Hold(RETRY_WAIT_S)
    assert request.proceed(0.2, connected=True) == Send(TRY_TIMEOUT_S)
    assert reason(request.proceed(TIMEOUT_S, connected=True)) == "broker_away", (
        "it said that it stored nothing"
    )


def test_an_id_that_is_still_in_process_may_come_to_be_stored() -> None:
    request = way()
    assert request.acked(refused(ID_IN_PROCESS)) == Hold(RETRY_WAIT_S)
    assert request.proceed(0.2, connected=True) == Send(TRY_TIMEOUT_S)
    assert reason(request.proceed(TIMEOUT_S, connected=True)) == "outcome_unknown"


def test_any_other_refusal_is_final() -> None:
    assert reason(way().acked(refused(10060))) == "internal"


def test_without_a_connection_it_waits_for_one_and_sends_nothing() -> None:
    request = way()
    assert request.proceed(1.0, connected=False) == Hold(TIMEOUT_S - 1.0)
    assert request.proceed(2.0, connected=True) == Send(TRY_TIMEOUT_S)
    assert reason(way().proceed(TIMEOUT_S, connected=False)) == "broker_away"


def test_the_last_try_gets_the_time_that_is_left() -> None:
    assert way().proceed(TIMEOUT_S - 0.25, connected=True) == Send(0.25)


def test_no_answer_in_time_is_an_unknown_outcome_with_the_rid() -> None:
    request = way()
    request.unanswered()
    step = request.proceed(TIMEOUT_S, connected=False)
    assert isinstance(step, Done)
    assert step.problem is not None
    assert (step.problem.reason, step.problem.row.retry_after) == ("outcome_unknown", True)
    assert "outcome: unknown" in step.problem.message
    assert RID in step.problem.message


def test_a_look_without_an_answer_leaves_the_outcome_unknown() -> None:
    request = way()
    request.acked(refused(FULL))
    assert request.not_looked() == Hold(RETRY_WAIT_S)
    assert reason(request.proceed(TIMEOUT_S, connected=True)) == "outcome_unknown"


def test_without_a_place_to_wait_in_it_says_what_is_known() -> None:
    request = way()
    request.proceed(0.0, connected=False)
    assert reason(request.give_up()) == "broker_away"
    request.unanswered()
    assert reason(request.give_up()) == "outcome_unknown"


@dataclass
class Broker:
    """A queue of one place. Others fill and empty it, and publish the same rid with another body; messages and answers
    get lost, and what was sent on a connection that broke may still arrive later."""

    chance: random.Random
    queued: str = ""
    ran: str = ""
    remembered: bool = False
    late: list[str] = field(default_factory=list)

    def publish(self, body: str) -> PubAck | None:
        lost = self.chance.random()
        if lost < 0.15:
            return None
        if lost < 0.3:
            self.late.append(body)
            return None
        if lost < 0.4:
            return refused(self.chance.choice([IN_PROCESS, SERVICE_UNAVAILABLE]))
        if self.late and lost < 0.5:
            return refused(ID_IN_PROCESS)
        ack = self._store(body)
        return None if self.chance.random() < 0.2 else ack

    def happen(self) -> None:
        """Something that others do."""
        match self.chance.randrange(5):
            case 0:
                self.queued = self.queued or "other"
            case 1 if self.queued == "other":
                self.queued = ""
            case 2:
                self.run()
            case 3:
                self._store("g")
            case 4 if self.late:
                self._store(self.late.pop())

    def run(self) -> None:
        """What is queued of this rid runs to its END."""
        if self.queued in ("f", "g"):
            assert not self.ran, "one run"
            self.ran, self.queued = self.queued, ""

    def find(self) -> str | None:
        return self.ran or (self.queued if self.queued in ("f", "g") else None)

    def _store(self, body: str) -> PubAck:
        if self.remembered:
            return DUPLICATE
        if self.queued:
            return refused(FULL)
        self.queued, self.remembered = body, True
        return STORED


def answered(seed: int) -> tuple[Broker, Problem | None]:
    """A request's way through a random world, and that world when nothing is under way any more."""
    chance = random.Random(seed)
    broker, request, now = Broker(chance), way(), 0.0
    connected = chance.choice([0.0, 0.8, 1.0])
    step = request.proceed(now, connected=chance.random() < connected)
    while not isinstance(step, Done):
        assert now <= TIMEOUT_S + TRY_TIMEOUT_S, "it comes to an end in time"
        if chance.random() < 0.5:
            broker.happen()
        match step:
            case Send(timeout_s):
                ack = broker.publish("f")
                now += timeout_s if ack is None else 0.001
                step = request.unanswered() if ack is None else request.acked(ack)
            case Look():
                now += 0.001
                step = request.found(broker.find()) if chance.random() < 0.8 else request.not_looked()
            case Hold(wait_s):
                now += wait_s * chance.random()
                step = request.proceed(now, connected=chance.random() < connected)
    if broker.queued == "other":
        broker.queued = ""
    for body in broker.late:
        broker._store(body)
    broker.run()
    return broker, step.problem


def test_whatever_happens_a_no_is_a_no_and_a_yes_is_a_run_of_this_body() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(5000):
        broker, problem = answered(seed)
        kind = "stored" if problem is None else problem.reason
        kinds[kind] += 1
        match kind:
            case "stored":
                assert broker.ran == "f", seed
            case "idempotency_mismatch":
                assert broker.ran == "g", seed
            case "queue_full" | "broker_away":
                assert broker.ran != "f", f"a known refusal ran: {seed}"
            case _:
                assert kind == "outcome_unknown", seed
    assert min(kinds.values()) > 20, kinds
    assert len(kinds) == 5, kinds
