"""What happens in a world, drawn from its seed: its shape, what clients do, and what goes wrong when.

A plan is data. Its steps are numbered, so that a failing world can be run again without some of them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import msgspec

from chaos import crowds
from schemas.requests import CLASSES, MAX_TOKENS

LETTER_MODEL = "penstock-sim"
"""What the workers of every world serve."""

FAULTS_SPAN_S = (2.0, 10.0)
"""Clients come and things go wrong for so long; everything that broke is mended at its end, if not before."""


FIRST_OF_CROWD = 100
"""Numbers of clients from here on are of a crowd."""

MOMENTS = ("queued", "lease", "tok", "end", "settled")
"""What a fault may wait for, from its time on: that a request enters the queue or leaves it, or gets such a record.
What matters most is what happens between a record and the answer to whoever wrote it."""

RUNNER, LEADER = "runner", "leader"
"""Not a machine's name, but which one it is by then: of the worker with the newest lease, of the leading scheduler."""


class Shape(NamedTuple):
    """How large a world is, and its settings where they differ from the defaults."""

    schedulers: int
    workers: int
    edges: int
    settings: dict[str, Any]
    is_lonely: bool
    """Whether only one process of each role is there in the end."""
    clock_skew_s: float
    """How far wall clocks of different processes may be apart."""


class Step(NamedTuple):
    """Something that is done at `at_s` after the system has come up. `kind` is a key of the tables of `chaos.steps`."""

    number: int
    at_s: float
    kind: str
    what: dict[str, Any]

    def __str__(self) -> str:
        fields = " ".join(f"{name}={value}" for name, value in self.what.items())
        return f"#{self.number} {self.kind} {fields}".rstrip()


class Plan(NamedTuple):
    """One world. `mended_at_s`: when the faults are over."""

    seed: int
    shape: Shape
    steps: list[Step]
    mended_at_s: float

    def without(self, dropped: set[int]) -> Plan:
        """The same world without some steps."""
        return self._replace(steps=[step for step in self.steps if step.number not in dropped])


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    rng = Random(f"plan/{seed}")
    shape = _shape(rng)
    span_s = rng.uniform(*FAULTS_SPAN_S)
    asked_at = sorted(rng.uniform(0.0, span_s * 0.7) for _ in range(rng.choice((1, 2, 3, 3, 4, 4, 5, 6))))
    drawn = [(at, *_command(rng, shape, number, seed)) for number, at in enumerate(asked_at)]
    drawn += [
        (at + rng.uniform(0.0, 2.0), "drain", {"machine": _machine(rng, shape), "for_s": 1.0})
        for at in asked_at
        if rng.random() < 0.1
    ]
    for at in asked_at:
        if rng.random() < 0.15:
            drawn.append((at + rng.uniform(0.0, 1.0), "cancel", _cancel(rng, shape)))
    for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 10))):
        # Most of what can go wrong goes wrong only while something runs.
        near = rng.choice(asked_at) + rng.uniform(-0.05, 0.5)
        at = max(0.0, near if rng.random() < 0.8 else rng.uniform(0.0, span_s))
        drawn.append((at, *_fault(rng, shape)))
    steps = [Step(number, at, kind, what) for number, (at, kind, what) in enumerate(drawn)]
    ends_at = [step.at_s + step.what.get("for_s", 0.0) for step in steps]
    mended_at_s = max(ends_at) if rng.random() < 0.3 else max(step.at_s for step in steps)
    plan = Plan(seed, shape, steps, max(span_s, mended_at_s))
    crowd = Random(f"crowd/{seed}")
    return _crowded(plan, crowd) if crowds.is_crowded(crowd) else plan


def _crowded(plan: Plan, rng: Random) -> Plan:
    """The same world with bounds, and with more clients, who have deadlines and come again."""
    shape = plan.shape._replace(settings=plan.shape.settings | crowds.bounds(rng))
    asked_at = [step.at_s for step in plan.steps if step.kind == "ask"]
    drawn = [
        (at, *_command(rng, shape, FIRST_OF_CROWD + number, plan.seed))
        for number, at in enumerate(crowds.burst_at(rng, asked_at))
    ]
    more = [Step(len(plan.steps) + number, *fields) for number, fields in enumerate(drawn)]
    steps = [
        step._replace(what=step.what | crowds.patience(rng)) if step.kind == "ask" else step
        for step in [*plan.steps, *more]
    ]
    return plan._replace(
        shape=shape, steps=steps, mended_at_s=max([plan.mended_at_s, *(step.at_s for step in more)])
    )


def _shape(rng: Random) -> Shape:
    ack_wait_s = rng.choice((2.0, 3.0, 3.0, 5.0, 10.0))
    settings: dict[str, Any] = {
        "nats_url": "nats://broker:4222",
        "slots": rng.choice((1, 2, 2, 3, 4)),
        "ttft_ms": rng.choice((1.0, 20.0, 100.0, 400.0)),
        "itl_ms": rng.choice((5.0, 20.0, 50.0, 120.0)),
        "ack_wait_s": ack_wait_s,
        "window_lead": rng.choice((0, 1, 2, 8)),
        "append_bytes_max": rng.choice((20, 64, 65536)),
        "append_interval_s": rng.choice((0.05, 0.25)),
        "client_buffer_bytes_max": rng.choice((400, 2000, 262144)),
        "step_s_max": rng.choice((2.0, 3.0)),
        "queue_max": rng.choice((2, 4, 10_000, 10_000)),
        "batch_window_ms": rng.choice((0.0, 0.0, 0.0, 50.0)),
        "head_wait_s": rng.choice((0.5, 10.0)),
        "keep_alive_s": rng.choice((1.0, 15.0)),
        "publish_timeout_s": rng.choice((2.0, 5.0)),
        "drain_timeout_s": rng.choice((0.5, 2.0, 30.0)),
        "queue_timeout_s": rng.choice((3.0, 120.0, 120.0, 120.0)),
        "request_timeout_s": rng.choice((5.0, 300.0, 300.0, 300.0)),
    }
    if rng.random() < 0.1:
        # Output in memory. A client whose END was lost with it waits for the time-out.
        settings |= {"broker_profile": "durable", "request_timeout_s": 5.0}
    return Shape(
        schedulers=rng.choice((1, 1, 2)),
        workers=rng.choice((1, 2, 2, 3)),
        edges=rng.choice((1, 1, 2)),
        settings=settings,
        is_lonely=rng.random() < 0.25,
        clock_skew_s=rng.choice((0.0, 0.0, 0.2)),
    )


# What clients do. A new command is a row here and one in `chaos.steps`.


def _command(rng: Random, shape: Shape, number: int, seed: int) -> tuple[str, dict[str, Any]]:
    tokens = rng.randint(3, 12)
    body: dict[str, Any] = {"model": LETTER_MODEL, "max_tokens": tokens}
    fault = _engine_fault(rng, tokens)
    if fault:
        body["penstock_fault"] = fault
    if rng.random() < 0.15:
        # Text at the end of a token that may become one of these is held back, and dies with its worker.
        body["stop"] = rng.choice(("er", "st", " o", "ow ", "ing h"))
    prompt = f"tale {number} of {seed}"
    dialect = rng.choice(("chat", "chat", "completion"))
    if dialect == "chat":
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    klass = rng.choice(CLASSES)
    if rng.random() < 0.2:
        letter = {
            "number": number,
            "klass": klass,
            "tenant": rng.choice(("public", "other")),
            "body": msgspec.json.encode(body).decode() if rng.random() < 0.9 else "not a request",
            "headers": {} if rng.random() < 0.9 else {MAX_TOKENS: "many"},
            "again_after_s": [rng.uniform(0.0, 4.0) for _ in range(rng.choice((0, 0, 1, 2)))],
        }
        return "publish", letter
    body["stream"] = streams = rng.random() < 0.7
    wish: dict[str, Any] = {
        "number": number,
        "klass": klass,
        "edge": rng.randrange(shape.edges),
        "dialect": dialect,
        "streams": streams,
        "leave_after_s": rng.uniform(0.0, 1.0) if rng.random() < 0.2 else None,
        "read_every_s": rng.choice((0.05, 0.3)) if rng.random() < 0.15 else 0.0,
        "body": msgspec.json.encode(body).decode(),
    }
    wish["on_disconnect"] = None
    wish["comes_back"] = []
    if streams and rng.random() < 0.4:
        # The request goes on without its client, who comes back for the rest.
        wish["on_disconnect"] = rng.choice(("detach", "grace=5", "grace=0.3"))
        if rng.random() < 0.5:
            wish["leave_after_s"] = rng.uniform(0.0, 1.5)
        visits = rng.choice((1, 2, 4))
        wish["comes_back"] = [(rng.uniform(0.0, 1.5), rng.randrange(shape.edges)) for _ in range(visits)]
    if rng.random() < 0.2:
        wish["key"] = f"order-{number}"
        pauses_s = [rng.choice((0.0, 0.001, rng.uniform(0.0, 4.0))) for _ in range(rng.choice((1, 1, 2, 3)))]
        wish["again"] = [(pause_s, rng.randrange(shape.edges)) for pause_s in pauses_s]
    return "ask", wish


def _cancel(rng: Random, shape: Shape) -> dict[str, Any]:
    what: dict[str, Any] = {"edge": rng.randrange(shape.edges), "nth": rng.choice((0, 0, 0, 1, 2))}
    if rng.random() < 0.5:
        what["on"] = rng.choice(MOMENTS)
    return what


def _engine_fault(rng: Random, tokens: int) -> dict[str, Any]:
    chance = rng.random()
    at = rng.randrange(tokens)
    if chance < 0.88:
        return {}
    if chance < 0.92:
        return {"raise_at_token": at}
    if chance < 0.94:
        return {"oom_at_token": at}
    if chance < 0.96:
        return {"die_at_token": at}
    if chance < 0.98:
        return {"hang_at_token": at}
    return {"slow_factor": rng.choice((2.0, 5.0))}


# What goes wrong. A new fault is a row here and one in `chaos.steps`.


def _fault(rng: Random, shape: Shape) -> tuple[str, dict[str, Any]]:
    kinds = list(FAULTS)
    kind = rng.choices(kinds, weights=[FAULTS[kind][0] for kind in kinds])[0]
    what = FAULTS[kind][1](rng, shape)
    if rng.random() < 0.4:
        what["on"] = rng.choice(MOMENTS)
    return kind, what


def _machine(rng: Random, shape: Shape) -> str:
    role = rng.choice((RUNNER, RUNNER, LEADER, "worker", "worker", "scheduler", "edge"))
    if role in (RUNNER, LEADER):
        return role
    count = {"worker": shape.workers, "scheduler": shape.schedulers, "edge": shape.edges}[role]
    return f"{role}-{rng.randrange(count)}"


def _crash(rng: Random, shape: Shape) -> dict[str, Any]:
    return {
        "machine": _machine(rng, shape),
        "after_callbacks": rng.choice((0, 0, 1, 2, 3, 5, 8, 13, 21)),
        "for_s": _duration_s(rng, 0.05, 3.0),
    }


def _of_machine(least_s: float, most_s: float) -> Callable[[Random, Shape], dict[str, Any]]:
    def draw(rng: Random, shape: Shape) -> dict[str, Any]:
        return {"machine": _machine(rng, shape), "for_s": _duration_s(rng, least_s, most_s)}

    return draw


def _delay(rng: Random, shape: Shape) -> dict[str, Any]:
    return {
        "machine": _machine(rng, shape),
        "extra_s": rng.choice((0.01, 0.1, 0.5)),
        "for_s": _duration_s(rng, 0.2, 3.0),
    }


def _broker_kill(rng: Random, _shape: Shape) -> dict[str, Any]:
    return {"for_s": _duration_s(rng, 0.05, 3.0), "forget_delivered": rng.random() < 0.5}


def _broker_for(least_s: float, most_s: float) -> Callable[[Random, Shape], dict[str, Any]]:
    return lambda rng, _shape: {"for_s": _duration_s(rng, least_s, most_s)}


def _outage(rng: Random, _shape: Shape) -> dict[str, Any]:
    return {"stream": rng.choice(("REQUESTS", "OUTPUT", "OUTPUT")), "for_s": rng.uniform(4.0, 9.0)}


def _often(rng: Random, _shape: Shape) -> dict[str, Any]:
    return {"chance": rng.choice((0.1, 0.5, 1.0)), "for_s": _duration_s(rng, 0.1, 2.0)}


def _redeliver(rng: Random, _shape: Shape) -> dict[str, Any]:
    return {"count": rng.randint(1, 3)}


def _duration_s(rng: Random, least_s: float, most_s: float) -> float:
    """Mostly short ones: between two magnitudes, all are as likely."""
    return float(least_s * (most_s / least_s) ** rng.random())


FAULTS: dict[str, tuple[int, Callable[[Random, Shape], dict[str, Any]]]] = {
    "crash": (6, _crash),
    "stop": (4, _of_machine(0.1, 15.0)),
    "cut": (4, _of_machine(0.1, 20.0)),
    "reset": (2, lambda rng, shape: {"machine": _machine(rng, shape)}),
    "delay": (2, _delay),
    "kill_broker": (2, _broker_kill),
    "stop_broker": (1, _broker_for(0.1, 8.0)),
    "outage": (1, _outage),
    "lose_acks": (3, _often),
    "lose_live": (2, _often),
    "lose_publishes": (2, _often),
    "busy": (2, _often),
    "redeliver": (3, _redeliver),
}
"""Weight, and what is drawn for it."""
