"""Who leads, with a key that lives three seconds."""

from __future__ import annotations

from scheduler.election import (
    Create,
    Election,
    Freed,
    Lead,
    Refused,
    Release,
    Renew,
    StepDown,
    Stop,
    Tick,
    Unanswered,
    Written,
)


def leader() -> Election:
    election = Election(ttl_s=3)
    assert election.handle(Tick(), 100.0) == [Create()]
    assert election.handle(Written(7), 100.1) == [Lead(7)]
    return election


def test_the_first_one_leads_and_renews_every_third() -> None:
    election = leader()
    assert election.leading
    assert election.next_deadline() == 101.0
    assert election.handle(Tick(), 101.0) == [Renew(7)]
    assert election.handle(Tick(), 101.1) == [], "one call at a time"
    assert election.handle(Written(9), 101.2) == []
    assert election.handle(Tick(), 102.0) == [Renew(9)]


def test_a_standby_keeps_trying() -> None:
    election = Election(ttl_s=3)
    election.handle(Tick(), 100.0)
    assert election.handle(Refused(), 100.1) == []
    assert election.next_deadline() == 100.6
    assert election.handle(Tick(), 100.6) == [Create()]


def test_a_leader_whose_key_is_taken_steps_down_at_once() -> None:
    election = leader()
    election.handle(Tick(), 101.0)
    assert election.handle(Refused(), 101.1) == [StepDown()]
    assert not election.leading
    assert election.handle(Tick(), 101.6) == [Create()]


def test_a_leader_without_answers_steps_down_before_its_key_vanishes() -> None:
    election = leader()
    assert election.handle(Tick(), 101.0) == [Renew(7)]
    assert election.handle(Unanswered(), 101.3) == []
    assert election.handle(Tick(), 101.8) == [Renew(7)]
    assert election.next_deadline() == 102.0
    assert election.handle(Tick(), 102.0) == [StepDown()]


def test_a_renewal_that_arrives_late_leads_again_under_a_new_term() -> None:
    election = leader()
    election.handle(Tick(), 101.0)
    assert election.handle(Tick(), 102.0) == [StepDown()]
    assert election.handle(Written(9), 102.5) == [Lead(9), Renew(9)]


def test_a_write_that_arrives_too_late_is_taken_back() -> None:
    election = Election(ttl_s=3)
    election.handle(Tick(), 100.0)
    assert election.handle(Written(7), 102.5) == [Release(7)]
    assert not election.leading


def test_a_standby_takes_over_at_once_from_a_leader_that_gives_the_key_back() -> None:
    """The word may come before the key is free, but it never takes longer than a tenth of a second."""
    election = Election(ttl_s=3)
    election.handle(Tick(), 100.0)
    election.handle(Refused(), 100.001)
    assert election.handle(Freed(), 100.1) == [Create()]
    assert election.handle(Refused(), 100.101) == []
    retry_at = election.next_deadline()
    assert retry_at is not None
    assert retry_at - 100.1 < 0.03
    assert election.handle(Tick(), retry_at) == [Create()]
    assert election.handle(Written(9), retry_at + 0.001) == [Lead(9)]
    assert retry_at + 0.001 - 100.1 < 0.1


def test_a_standby_hurries_only_for_a_moment() -> None:
    election = Election(ttl_s=3)
    election.handle(Tick(), 100.0)
    election.handle(Freed(), 100.0)
    assert election.handle(Refused(), 100.6) == []
    assert election.next_deadline() == 101.1


def test_the_word_of_its_own_release_does_not_bring_a_stopped_one_back() -> None:
    election = leader()
    election.handle(Stop(), 100.5)
    assert election.handle(Freed(), 100.51) == []
    assert election.next_deadline() is None


def test_a_leader_that_stops_frees_the_key() -> None:
    election = leader()
    assert election.handle(Stop(), 100.5) == [Release(7), StepDown()]
    assert election.handle(Tick(), 105.0) == []
    assert election.next_deadline() is None


def test_a_call_under_way_at_the_stop_is_taken_back() -> None:
    election = leader()
    election.handle(Tick(), 101.0)
    assert election.handle(Stop(), 101.1) == [Release(7), StepDown()]
    assert election.handle(Written(9), 101.2) == [Release(9)]
    election.check()
