"""Places in a line: who is ahead, how it moves, and when a request has its turn."""

from __future__ import annotations

import pytest

from edge.forecast.line import Line, Outlook
from tests.unit.edge.forecast.lines import moving, state


def test_an_idle_model_takes_at_once() -> None:
    line = Line()
    line.heard(state(free=4), 1, 10.0)
    assert line.outlook("standard", 10.0) == Outlook(0, 0.0)


def test_without_a_rate_the_place_is_known_and_the_time_is_not() -> None:
    line = Line()
    line.heard(state({"standard": 5}), 1, 10.0)
    assert line.outlook("standard", 10.0) == Outlook(5, None)


def test_while_no_leader_is_heard_no_time_is_known() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    place = line.publish("standard", now)
    assert line.outlook("standard", now + 3.1) == Outlook(21, None)
    assert place.outlook(now + 3.1) == Outlook(20, None)


def test_the_rate_is_what_is_taken_while_requests_wait() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    assert line.rate("standard", now) == pytest.approx(4.0, rel=0.05)
    outlook = line.outlook("standard", now)
    assert outlook.ahead == 20
    assert outlook.eta_s == pytest.approx(21 / 4, rel=0.05)


def test_what_this_edge_published_since_the_heartbeat_counts() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    line.publish("standard", now + 0.1)
    line.publish("interactive", now + 0.1)
    line.publish("batch", now + 0.1)
    assert line.outlook("standard", now + 0.2).ahead == 22
    line.heard(state({"standard": 20, "interactive": 1, "batch": 1}, {"standard": 122}), 1, now + 0.5)
    assert line.outlook("standard", now + 0.5).ahead == 21, "the heartbeat has counted them"


def test_what_the_leader_may_have_missed_still_counts() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    line.publish("standard", now + 0.1)
    line.heard(state({"standard": 20}, {"standard": 122}, age_s=0.6), 1, now + 0.5)
    assert line.outlook("standard", now + 0.5).ahead == 21


def test_free_slots_take_the_first_ones() -> None:
    line = Line()
    line.heard(state(free=2), 1, 10.0)
    places = [line.publish("standard", 10.0 + number / 100).outlook(10.05).ahead for number in range(4)]
    assert places == [0, 0, 0, 1]


def test_a_place_falls_with_what_is_taken_and_ends_at_none() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    place = line.publish("standard", now)
    seen = []
    for half in range(1, 14):
        line.heard(state({"standard": 20}, {"standard": 120 + 2 * half}), 1, now + half / 2)
        seen.append(place.outlook(now + half / 2).ahead)
    assert seen == [19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 0, 0, 0]
    assert place.outlook(now + 7).eta_s == pytest.approx(0.25, rel=0.1)


def test_what_other_edges_published_meanwhile_is_learnt() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    early, late = line.publish("standard", now + 0.1), line.publish("standard", now + 0.3)
    assert [place.outlook(now + 0.3).ahead for place in (early, late)] == [20, 21]
    # Two went, and ten came: eight of them elsewhere, before, between and after these two.
    line.heard(state({"standard": 28}, {"standard": 122}), 1, now + 0.5)
    assert [place.outlook(now + 0.5).ahead for place in (early, late)] == [21, 25]
    line.heard(state({"standard": 28}, {"standard": 127}), 1, now + 1.5)
    assert [place.outlook(now + 1.5).ahead for place in (early, late)] == [16, 20]


def test_a_new_leader_counts_anew_and_places_go_on() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    place = line.publish("standard", now)
    line.heard(state({"standard": 20}, {"standard": 3}), 2, now + 0.5)
    assert place.outlook(now + 0.5).ahead == 18
    line.heard(state({"standard": 20}, {"standard": 5}), 2, now + 1.0)
    assert place.outlook(now + 1.0).ahead == 16
    assert line.rate("standard", now) == pytest.approx(4.0, rel=0.1)


def test_who_leaves_the_line_lets_those_behind_move_up() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    place = line.publish("standard", now)
    line.heard(state({"standard": 3}, {"standard": 120}), 1, now + 0.5)
    assert place.outlook(now + 0.5).ahead == 2, "one of the three is this one"


def test_what_was_not_stored_is_not_ahead() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    place = line.publish("standard", now)
    place.withdraw()
    place.withdraw()
    assert line.outlook("standard", now).ahead == 20


def test_more_urgent_classes_are_ahead_and_less_urgent_ones_are_not() -> None:
    line, now = moving({"interactive": 3, "standard": 20, "batch": 50}, {"interactive": 1, "standard": 3})
    assert line.outlook("interactive", now).ahead == 3
    assert line.outlook("standard", now).ahead == 23
    assert line.outlook("batch", now).ahead == 73
    assert line.outlook("interactive", now).eta_s == pytest.approx(4 / 1, rel=0.1)
    assert line.outlook("standard", now).eta_s == pytest.approx(21 / 3, rel=0.1)
    assert line.outlook("batch", now).eta_s == pytest.approx(74 / 4, rel=0.1), "its own pace is not known"


def test_a_more_urgent_one_that_comes_later_does_not_move_a_place_down() -> None:
    line, now = moving({"interactive": 2, "standard": 5}, {"interactive": 1, "standard": 3})
    place = line.publish("standard", now)
    taken = {"interactive": 34, "standard": 90}
    line.heard(state({"interactive": 2, "standard": 6}, taken), 1, now + 0.5)
    assert place.outlook(now + 0.5).ahead == 5, "four of the interactive went, two of which were ahead"


def test_workers_that_come_and_go_are_no_requests() -> None:
    line, now = moving({"standard": 20}, {"standard": 4})
    line.heard(state({"standard": 20}, {"standard": 120}, slots=8), 1, now + 0.5)
    assert line.rate("standard", now) == pytest.approx(8.0, rel=0.05)
    line.heard(state({"standard": 20}, {"standard": 120}, slots=0), 1, now + 1.0)
    assert line.rate("standard", now) is None
