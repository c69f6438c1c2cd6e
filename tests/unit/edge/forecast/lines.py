"""A model as heartbeats tell of it, half a second apart."""

from __future__ import annotations

from edge.forecast.line import Line
from schemas.dispatch import ModelCard, ModelState
from schemas.requests import Klass

CARD = ModelCard("m", "m", "simulator", 4096, 256)


def state(
    waiting: dict[str, int] | None = None,
    taken: dict[str, int] | None = None,
    *,
    slots: int = 4,
    free: int = 0,
    age_s: float = 0.0,
) -> ModelState:
    return ModelState(
        CARD, 1, slots, free, 0.0, waiting=waiting or {}, waiting_age_s=age_s, taken=taken or {}
    )


def moving(waiting: dict[str, int], took: dict[Klass, int], *, seconds: int = 30) -> tuple[Line, float]:
    """A line of which `took` of each class are taken per second, with `waiting` all the time; and what time it is."""
    line, now = Line(), 1000.0
    for half in range(2 * seconds + 1):
        line.heard(state(waiting, {klass: count * half // 2 for klass, count in took.items()}), 1, now)
        now += 0.5
    return line, now - 0.5
