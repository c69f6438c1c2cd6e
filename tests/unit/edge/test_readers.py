"""Who may cancel, who only stops listing, and what the others are told."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge.readers import Action, Cancel, Readers, Tell
from schemas.dispatch import EdgeBeat, Reader
from schemas.ids import ANONYMOUS, RequestId, TenantKey

A, B = RequestId("a" * 16), RequestId("b" * 16)
GONE = [Cancel(ANONYMOUS, A)]


def readers() -> Readers:
    core = Readers("e1", 0.0, interval_s=1.0, farewell_s=30.0)
    assert core.tick(0.0) == [Tell(EdgeBeat("e1", []))]
    return core


def listed(actions: list[Action]) -> list[Reader]:
    [action] = actions
    assert isinstance(action, Tell)
    assert action.beat.full
    return action.beat.readers


def test_the_only_reader_that_cancels_by_leaving_does() -> None:
    core = readers()
    assert core.join(1, ANONYMOUS, A, 0.0, shared=False) == [], "nobody else can know of it yet"
    assert core.leave(1, ANONYMOUS, A, "left") == GONE
    core.check()


@pytest.mark.parametrize("why", ["over", "sent_away"])
def test_what_is_over_or_goes_on_elsewhere_is_not_cancelled(why: str) -> None:
    core = readers()
    core.join(1, ANONYMOUS, A, 0.0, shared=False)
    assert core.leave(1, ANONYMOUS, A, "over" if why == "over" else "sent_away") == []


@pytest.mark.parametrize("grace_s", [None, 5.0])
def test_a_request_with_time_is_left_to_the_leader(grace_s: float | None) -> None:
    core = readers()
    core.join(1, ANONYMOUS, A, grace_s, shared=False)
    assert listed(core.tick(1.0)) == [Reader(ANONYMOUS, A, grace_s)]
    assert core.leave(1, ANONYMOUS, A, "left") == []
    assert listed(core.tick(2.0)) == []


def test_a_reader_of_something_known_is_told_of_at_once_and_shares() -> None:
    core = readers()
    told = core.join(1, ANONYMOUS, A, 0.0, shared=True)
    assert told == [Tell(EdgeBeat("e1", [Reader(ANONYMOUS, A, 0.0)], full=False))]
    assert core.leave(1, ANONYMOUS, A, "left") == []


def test_a_second_reader_here_shares() -> None:
    core = readers()
    core.join(1, ANONYMOUS, A, 0.0, shared=False)
    assert core.join(2, ANONYMOUS, A, 0.0, shared=True)
    assert core.leave(1, ANONYMOUS, A, "left") == []
    assert core.leave(2, ANONYMOUS, A, "left") == [], "a third may have come elsewhere meanwhile"


def test_a_reader_that_another_edge_tells_of_shares() -> None:
    core = readers()
    core.join(1, ANONYMOUS, A, 0.0, shared=False)
    core.join(2, ANONYMOUS, B, 0.0, shared=False)
    core.heard(EdgeBeat("e2", [Reader(ANONYMOUS, A, None)], full=False))
    assert core.leave(1, ANONYMOUS, A, "left") == []
    assert core.leave(2, ANONYMOUS, B, "left") == [Cancel(ANONYMOUS, B)], "only what was told of"


def test_a_beat_of_our_own_or_of_another_tenant_shares_nothing() -> None:
    core = readers()
    core.join(1, ANONYMOUS, A, 0.0, shared=False)
    core.heard(EdgeBeat("e1", [Reader(ANONYMOUS, A, 0.0)]))
    core.heard(EdgeBeat("e2", [Reader("other", A, 0.0)]))
    assert core.leave(1, ANONYMOUS, A, "left") == GONE


def test_a_reader_that_finds_out_that_it_is_not_alone_shares() -> None:
    core = readers()
    core.join(1, ANONYMOUS, A, 0.0, shared=False)
    assert core.share(ANONYMOUS, A) == [Tell(EdgeBeat("e1", [Reader(ANONYMOUS, A, 0.0)], full=False))]
    assert core.leave(1, ANONYMOUS, A, "left") == []


def test_beats_come_at_their_interval_and_list_the_most_patient_reader() -> None:
    core = readers()
    assert core.next_deadline() == 1.0
    assert core.tick(0.99) == []
    core.join(1, ANONYMOUS, A, 0.0, shared=False)
    core.join(2, ANONYMOUS, A, 7.0, shared=True)
    core.join(3, ANONYMOUS, B, 0.0, shared=False)
    assert listed(core.tick(1.0)) == [Reader(ANONYMOUS, A, 7.0), Reader(ANONYMOUS, B, 0.0)]
    assert core.next_deadline() == 2.0
    core.join(4, ANONYMOUS, A, None, shared=True)
    assert listed(core.tell(1.5))[0] == Reader(ANONYMOUS, A, None)
    assert core.next_deadline() == 2.5


def test_who_is_sent_away_has_time_to_come_back() -> None:
    core = readers()
    core.join(1, ANONYMOUS, A, 0.0, shared=False)
    core.join(2, ANONYMOUS, B, 100.0, shared=False)
    assert listed(core.drain(1.0)) == [Reader(ANONYMOUS, A, 30.0), Reader(ANONYMOUS, B, 100.0)]
    core.leave(1, ANONYMOUS, A, "sent_away")
    assert listed(core.close()) == [], "the last word: nobody reads here any more"


class AnyOrder(RuleBasedStateMachine):
    """A cancel comes exactly when the only reader there ever was leaves by itself with grace 0."""

    def __init__(self) -> None:
        super().__init__()
        self.core = readers()
        self.now = 0.0
        self.number = 0
        self.here: dict[int, tuple[RequestId, float | None]] = {}
        self.company: dict[RequestId, bool] = {}

    @rule(rid=st.sampled_from([A, B]), grace_s=st.sampled_from([0.0, 3.0, None]), known=st.booleans())
    def join(self, rid: RequestId, grace_s: float | None, known: bool) -> None:
        self.number += 1
        is_first = all(other != rid for other, _ in self.here.values())
        self.company[rid] = known or not is_first
        self.here[self.number] = rid, grace_s
        self.core.join(self.number, ANONYMOUS, rid, grace_s, shared=known)

    @rule(rid=st.sampled_from([A, B]))
    def heard(self, rid: RequestId) -> None:
        self.core.heard(EdgeBeat("e2", [Reader(TenantKey(ANONYMOUS), rid, 1.0)]))
        self.company[rid] = True

    @rule(data=st.data(), why=st.sampled_from(["over", "left", "sent_away"]))
    def leave(self, data: st.DataObject, why: str) -> None:
        if not self.here:
            return
        number = data.draw(st.sampled_from(sorted(self.here)))
        rid, grace_s = self.here.pop(number)
        actions = self.core.leave(number, ANONYMOUS, rid, why)  # type: ignore[arg-type]
        alone = not self.company[rid] and all(other != rid for other, _ in self.here.values())
        assert actions == ([Cancel(ANONYMOUS, rid)] if alone and why == "left" and grace_s == 0 else [])

    @rule()
    def beat(self) -> None:
        self.now += 1.0
        told = {reader.rid for reader in listed(self.core.tick(self.now))}
        assert told == {rid for rid, _ in self.here.values()}

    @invariant()
    def holds(self) -> None:
        self.core.check()


TestAnyOrder = AnyOrder.TestCase
