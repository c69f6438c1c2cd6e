"""A ledger of promises: one after the other, at the pace at which places become free, and bounded."""

from __future__ import annotations

import pytest

from edge.forecast.promises import GRACE_S, PACE, RETRY_AFTER_MAX_S, Promises


def test_each_is_promised_a_time_of_its_own() -> None:
    promises = Promises()
    waits = [promises.promise(100.0, 2.0) for _ in range(4)]
    assert waits == pytest.approx([number / (2.0 * PACE) for number in (1, 2, 3, 4)])


def test_edges_share_the_places() -> None:
    promises = Promises()
    waits = [promises.promise(100.0, 2.0, edges=4) for _ in range(2)]
    assert waits == pytest.approx([2.0 / PACE, 4.0 / PACE])


def test_a_promise_is_not_before_the_time_it_can_be_kept() -> None:
    promises = Promises()
    assert promises.promise(100.0, 2.0, after_s=10.0) == pytest.approx(10.0 + 0.5 / PACE)
    assert promises.promise(100.0, 2.0, after_s=3.0) == pytest.approx(10.0 + 1.0 / PACE)


def test_due_promises_are_kept_for_a_while() -> None:
    promises = Promises()
    wait_s = promises.promise(100.0, 0.2)
    assert promises.waits(100.0)
    assert promises.due(100.0) == 0
    assert promises.due(100.0 + wait_s) == 1
    assert promises.due(100.0 + wait_s + GRACE_S) == 1
    assert promises.due(100.0 + wait_s + GRACE_S + 1) == 0
    assert not promises.waits(100.0 + wait_s + GRACE_S + 1)


def test_clients_that_do_not_come_are_expected_less_and_less() -> None:
    promises, now = Promises(), 100.0
    expected = []
    for _ in range(60):
        now += promises.promise(now, 1.0)
        expected.append(promises.due(now))
        now += GRACE_S + 1.0
    assert expected[0] == 1
    assert expected == sorted(expected, reverse=True)
    assert expected[-1] < 0.1
    for _ in range(60):
        now += promises.promise(now, 1.0)
        promises.redeem(now)
        now += GRACE_S + 1.0
    promises.promise(now, 1.0)
    assert promises.due(now + 1.0) > 0.9, "and those that do are expected again"


def test_a_promise_that_was_kept_is_no_longer_due() -> None:
    promises = Promises()
    waits = [promises.promise(100.0, 1.0) for _ in range(2)]
    promises.redeem(100.0)
    promises.redeem(100.0 + waits[0])
    assert promises.due(100.0 + waits[0]) == 0, "the other one is not due yet"
    assert promises.due(100.0 + waits[1]) == 1
    promises.redeem(100.0 + waits[1])
    assert not promises.waits(100.0 + waits[1])


def test_nothing_is_promised_past_the_longest_wait_and_nothing_grows() -> None:
    promises = Promises()
    waits = [promises.promise(100.0, 1000.0) for _ in range(200_000)]
    assert max(waits) == RETRY_AFTER_MAX_S
    assert sum(wait < RETRY_AFTER_MAX_S for wait in waits) == pytest.approx(120 * 1000 * PACE, abs=2)
    assert len(promises._steps) <= RETRY_AFTER_MAX_S / 0.25 + 1


def test_what_is_only_ever_promised_is_forgotten_in_time() -> None:
    """Bounds that nobody asks about who is due: there is no other call."""
    promises = Promises()
    for second in range(3600):
        promises.promise(100.0 + second, 1.0)
    assert len(promises._steps) <= RETRY_AFTER_MAX_S / 0.25 + 1
