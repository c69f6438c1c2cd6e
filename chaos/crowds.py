"""Worlds in which more is asked for than may be: bounds that all edges share, bursts, deadlines, and clients who come
again when they are told to.

Drawn from randomness of its own: a world that has none of this is what its seed has always made of it.
"""

from __future__ import annotations

from random import Random
from typing import Any

CROWDED = 0.3
"""The share of such worlds."""

AT_ONCE_S = 0.001
"""Who comes so close together meets at the bounds before anybody's count is stored."""


def is_crowded(rng: Random) -> bool:
    """Whether a world is one."""
    return rng.random() < CROWDED


def bounds(rng: Random) -> dict[str, Any]:
    """Settings: one bound at least."""
    drawn: list[tuple[float, dict[str, Any]]] = [
        (0.3, {"queue_mode": "reject"}),
        (0.4, {"tenant_queue_max": rng.choice((1, 2, 4))}),
        (0.3, {"model_queue_max": rng.choice((1, 2, 4))}),
        (0.2, {"streams_per_key_max": rng.choice((1, 2, 4))}),
        (0.2, {"rate_requests_max": rng.choice((1, 2, 4, 8)), "rate_window_s": rng.choice((1, 2, 5))}),
        (0.1, {"rate_tokens_max": rng.choice((20, 60)), "rate_window_s": rng.choice((1, 2, 5))}),
    ]
    chosen = [some for chance, some in drawn if rng.random() < chance] or [rng.choice(drawn)[1]]
    settings: dict[str, Any] = {"edge_silent_s": rng.choice((8.0, 20.0))}
    for some in chosen:
        settings |= some
    return settings


def burst_at(rng: Random, asked_at: list[float]) -> list[float]:
    """When more clients come, near those who come anyway."""
    return [
        at + rng.choice((0.0, AT_ONCE_S, rng.uniform(0.0, 0.5), rng.uniform(0.0, 2.0)))
        for at in asked_at
        for _ in range(rng.choice((0, 1, 2, 4, 6)))
    ]


def patience(rng: Random) -> dict[str, Any]:
    """How long one client can wait, and how often it tries again."""
    return {
        "deadline_s": rng.choice((0.1, 0.3, 1.0, 3.0)) if rng.random() < 0.4 else None,
        "tries_again": rng.choice((0, 1, 2, 3)),
    }
