"""Worlds made by hand, where a seed would take too long to meet what is looked for."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from chaos.plan import LETTER_MODEL, Plan, Shape, Step

SETTINGS: dict[str, Any] = {
    "nats_url": "nats://broker:4222",
    "slots": 2,
    "ttft_ms": 20.0,
    "itl_ms": 20.0,
    "ack_wait_s": 2.0,
    "step_s_max": 2.0,
}


def output_lost_under_a_stopped_worker(seed: int) -> Plan:
    """Output is in memory, a worker is stopped, and the broker dies. The worker goes on while another one has begun the
    same request again."""
    rng = Random(seed)
    settings = SETTINGS | {
        "slots": 1,
        "itl_ms": 120.0,
        "broker_profile": "durable",
        "request_timeout_s": 30.0,
    }
    steps = [
        _ask(0, 0.5, tokens=12),
        Step(1, rng.uniform(0.6, 1.2), "stop", {"machine": "worker-0", "for_s": rng.uniform(2.0, 6.0)}),
        Step(2, rng.uniform(0.6, 1.4), "kill_broker", {"for_s": 0.2, "forget_delivered": False}),
    ]
    return _plan(seed, Shape(1, 2, 1, settings, is_lonely=False, clock_skew_s=0.0), steps, mended_at_s=8.0)


def a_stopped_leader(seed: int) -> Plan:
    """The leader, whichever of two it is, is stopped for half a minute; requests come meanwhile."""
    rng = Random(seed)
    leader = rng.randrange(2)
    steps = [
        Step(0, 1.0, "stop", {"machine": f"scheduler-{leader}", "for_s": 30.0}),
        *[_ask(number, rng.uniform(1.0, 8.0), tokens=4) for number in range(1, 5)],
    ]
    shape = Shape(2, 2, 1, SETTINGS, is_lonely=False, clock_skew_s=0.0)
    return _plan(seed, shape, steps, mended_at_s=32.0)


def _ask(number: int, at_s: float, *, tokens: int) -> Step:
    body = {"model": LETTER_MODEL, "max_tokens": tokens, "prompt": f"tale {number}", "stream": True}
    wish = {
        "number": number,
        "klass": "standard",
        "edge": 0,
        "dialect": "completion",
        "streams": True,
        "leave_after_s": None,
        "read_every_s": 0.0,
        "body": msgspec.json.encode(body).decode(),
    }
    return Step(number, at_s, "ask", wish)


def _plan(seed: int, shape: Shape, steps: list[Step], *, mended_at_s: float) -> Plan:
    return Plan(seed, shape, steps, mended_at_s)
