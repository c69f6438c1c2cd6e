"""The measured rate: the same at any load, known soon, and never from nothing."""

from __future__ import annotations

import pytest

from edge.forecast.drain import Drain, Share


def test_nothing_is_known_before_some_requests_ended() -> None:
    drain = Drain()
    assert drain.rate(8) is None
    drain.observe(2, 8.0, 1.0)
    assert drain.rate(8) is None
    drain.observe(2, 8.0, 1.0)
    assert drain.rate(8) == pytest.approx(2.0, rel=0.1)


def test_a_model_without_slots_takes_nothing() -> None:
    drain = Drain()
    drain.observe(10, 10.0, 1.0)
    assert drain.rate(0) is None


@pytest.mark.parametrize("busy", [1, 4, 8])
def test_a_quiet_model_tells_as_much_as_a_busy_one(busy: int) -> None:
    """A request takes a slot for two seconds, whatever the load: eight slots take four per second."""
    drain = Drain()
    for _ in range(60):
        drain.observe(busy, busy * 2.0, 2.0)
    assert drain.rate(8) == pytest.approx(4.0, rel=0.02)


def test_more_slots_take_more_at_once() -> None:
    drain = Drain()
    drain.observe(16, 16.0, 2.0)
    assert drain.rate(16) == 2 * drain.rate(8)  # type: ignore[operator]


def test_what_is_new_replaces_what_is_old() -> None:
    drain = Drain()
    for _ in range(100):
        drain.observe(8, 8.0, 1.0)
    for _ in range(40):
        drain.observe(2, 8.0, 1.0)
    assert drain.rate(8) == pytest.approx(2.0, rel=0.25)


def test_slow_requests_are_not_forgotten_before_there_are_enough() -> None:
    drain = Drain()
    for _ in range(200):
        drain.observe(1, 120.0, 60.0)
    assert drain.rate(2) == pytest.approx(1 / 60, rel=0.01)


def test_the_share_of_a_class() -> None:
    share = Share()
    assert share.share(0.0) is None
    share.observe(1, 4, 0.5, 100.0)
    assert share.share(100.0) == 0.25
    assert share.share(131.0) is None, "others may wait now"
    share.observe(4, 4, 0.5, 140.0)
    assert share.share(140.0) == 1.0, "what was long ago does not count"


def test_a_class_that_gets_nothing_has_no_share() -> None:
    share = Share()
    share.observe(0, 9, 0.5, 100.0)
    assert share.share(100.0) is None
