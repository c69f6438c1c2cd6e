"""The protocol of one request holds in every reachable state, and each of its rules is needed.

`pytest tests/model -s` prints how many states were explored and, for each broken rule, a shortest way to harm.
"""

from __future__ import annotations

from typing import get_args

import pytest

from tests.model.explore import explore
from tests.model.protocol import Protocol
from tests.model.records import End, Lease
from tests.model.scope import Mutation
from tests.model.scopes import SCOPES, STATES_MAX, explored
from tests.model.state import State

HARM: dict[Mutation, tuple[str, str]] = {
    "a lease is stored without CAS": ("crash, redelivery, loss", "I5"),
    "a tok is stored without a fence": ("crash, redelivery, loss", "I7"),
    "END is stored without CAS": ("four ENDs", "I3"),
    "an owner's END names the newest ctl record": ("crash, redelivery, loss", "I4"),
    "ack before the PubAck of END": ("crash, redelivery, loss", "I1"),
    "an answer to an older publish counts": ("crash, redelivery, loss", "I1"),
    "the log is read before the lease": ("crash, redelivery, loss", "I5"),
    "two appends in flight": ("crash, redelivery, loss", "I4"),
    "other bytes on a retry": ("crash, redelivery, loss", "I4"),
    "END before the last append is acknowledged": ("crash, redelivery, loss", "I4"),
    "hand-off before the last append is acknowledged": ("hand-off", "I4"),
    "the message is settled before END on a cancel": ("cancel", "I1"),
    "a queue time-out names the newest ctl record": ("four ENDs", "I9"),
    "a scheduler acks what a worker took": ("two schedulers", "I1"),
    "ack when fenced": ("two schedulers", "I1"),
    "a lease over END": ("crash, redelivery, loss", "I3"),
    "the END of a canceller carries n": ("cancel", "I4"),
    "a re-lease keeps own tokens although the log differs": ("resumed by oneself", "I4"),
    "a fenced worker leases again without a newer delivery": ("two schedulers", "I10"),
    "a lease over another record keeps the cause of its delivery": ("hand-off", "I10"),
    "strikes are not folded": ("poison", "I10"),
    "every lease without a token is a strike": ("hand-off", "I10"),
    "attempts are not counted": ("too many attempts", "I10"),
    "END before the dead letter": ("poison, loss", "I10"),
    "a dead letter is written without CAS": ("poison, loss", "I10"),
    "signs of progress after being fenced": ("two takers", "stuck"),
    "END found at a delivery is not acknowledged": ("cancel, redelivery", "stuck"),
    "sequences repeat after a loss": ("the log is lost", "I7"),
    "records of a running request age out": ("retention, streamed", "I4"),
}
"""Where each broken rule shows, and as what."""


@pytest.mark.parametrize("scope", SCOPES)
def test_the_protocol_holds(scope: str) -> None:
    found = explored(scope)
    print(f"\n{scope}: {found.summary}")
    assert found.problem is None, found.summary
    assert found.logs, "a request that never ends proves nothing"


def test_every_rule_is_broken_once() -> None:
    assert set(HARM) == set(get_args(Mutation)) - {""}


@pytest.mark.parametrize("mutation", HARM)
def test_a_broken_rule_does_harm(mutation: Mutation) -> None:
    scope, harm = HARM[mutation]
    found = explore(Protocol(SCOPES[scope], mutation), states_max=STATES_MAX)
    print(f"\n{mutation}: {found}")
    assert found.problem is not None
    assert found.problem.startswith(harm), found


def stage_of(state: State) -> str:
    """Where a request is that is about to be ended from outside."""
    published = [worker.publish.record for worker in state.workers if worker.publish is not None]
    if state.message == "queued":
        return "given back" if state.delivery else "undelivered"
    if any(isinstance(record, End) for record in published):
        return "finishing"
    if any(worker.lease for worker in state.workers):
        return "running" if state.log.ids else "leased"
    if any(isinstance(record, Lease) for record in published):
        return "dispatched"
    return "held" if state.offers else "left by all"


def test_a_cancel_meets_a_request_at_every_stage() -> None:
    model = Protocol(SCOPES["cancel"])
    states = explore(model, states_max=STATES_MAX).states
    stages = {
        stage_of(state)
        for state in states
        if state.closers and not state.log.end
        for step in model.steps(state)
        if step.after.log.end and step.after.log.end.status == "cancelled"
    }
    assert stages == {
        "undelivered",
        "held",
        "dispatched",
        "leased",
        "running",
        "finishing",
        "given back",
        "left by all",
    }
    # And one that comes too late: the answer to it is the END that is there.
    late = [state for state in states if state.closers and state.closers[0].publish and state.log.end]
    assert any(state.log.end and state.log.end.status == "ok" for state in late)


def test_each_of_four_ends_can_be_the_one() -> None:
    ends = {log.end for log in explored("four ENDs").logs if log.end}
    assert {(end.status, end.reason, end.nonce > 0) for end in ends} == {
        ("ok", "", True),
        ("expired", "", True),
        ("cancelled", "", False),
        ("expired", "", False),
        ("expired", "queue_timeout", False),
    }
