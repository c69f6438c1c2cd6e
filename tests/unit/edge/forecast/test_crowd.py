"""Three times more clients than the workers can take, who do as they are told: most get in when they come back."""

from __future__ import annotations

import pytest

from edge.forecast.promises import RETRY_AFTER_MAX_S
from tests.unit.edge.forecast.crowd import Crowd


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "crowd",
    [
        {},
        {"spread": 0.0},
        {"spread": 0.9},
        {"slots": 8, "service_s": 4.0, "queue_max": 40},
        {"edges": 1},
        {"edges": 4},
    ],
)
def test_who_comes_back_when_told_finds_a_place(crowd: dict[str, float], seed: int) -> None:
    done = Crowd(seed, **crowd).run()  # type: ignore[arg-type]
    assert len(done.refused) > len(done.clients) / 2
    assert done.first_retry >= 0.95
    assert done.depth_max <= done.queue_max
    waits = [client.waits[0] for client in done.refused]
    assert max(waits) < RETRY_AFTER_MAX_S
    assert len({round(wait) for wait in waits}) > 20, "they come back one by one"


def test_a_constant_sends_nearly_everybody_away_again() -> None:
    done = Crowd(constant=True).run()
    assert done.first_retry < 0.2
    assert max(client.tries for client in done.clients) > 20


def test_the_slots_are_as_busy_as_without_promises() -> None:
    """Places are kept for those who come back, and yet no slot is: all is done nearly as fast."""
    ideal_s = len((done := Crowd().run()).clients) * done.service_s / done.slots
    assert done.now - 103.0 < ideal_s * 1.15


@pytest.mark.parametrize("queue_max", [24, 60])
def test_slots_are_not_kept_free_for_those_who_never_come_back(queue_max: int) -> None:
    """Or who cannot be recognized, which is the same here: `curl --retry` sends no count of its tries."""
    done = Crowd(queue_max=queue_max, loyal=0.0).run()
    assert done.taken >= 0.9 * done.burst_s * done.slots / done.service_s
    quick = Crowd(queue_max=5 * queue_max, loyal=0.0, service_s=0.16).run()
    assert quick.taken >= 0.8 * quick.burst_s * quick.slots / quick.service_s


def test_nobody_is_promised_more_than_a_client_waits() -> None:
    done = Crowd(load=10.0, burst_s=15.0).run()
    waits = [wait for client in done.refused for wait in client.waits]
    assert max(waits) == RETRY_AFTER_MAX_S
    within = [client for client in done.refused if client.waits[0] < RETRY_AFTER_MAX_S]
    assert len(within) > 500
