"""What clients do in a run: each wish is drawn from the seed and its number alone, so that any one can be drawn again.

Most wishes are healthy and patient; some leave and come back elsewhere, ask twice, cancel, or bring an engine down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import msgspec

from chaos.real.clients_events import Dialect
from chaos.real.history import Way
from schemas.requests import CLASSES, Klass

MODEL = "penstock-sim"

TOKENS_MAX = 400
CHOICES_MAX = 3

POISON_SHARE = 0.008
"""Each of these fails up to `strikes_max` times; the rarer kinds take a worker with them every time."""

POISONS: tuple[tuple[str, int], ...] = (
    ("raise_at_token", 6),
    ("oom_at_token", 3),
    ("die_at_token", 2),
    ("hang_at_token", 1),
)
"""Faults of the simulator, with their weights."""

SLOW_SHARE = 0.005

READ_EVERY_S_MAX = 0.15
"""The longest answer is read within a minute: less than the patience with clients at the end of a run."""

STOPS = (" river", "gate", " stone cl", "水", "er ")

POLICIES = ("detach", "grace=20", "grace=5")
"""Of clients that come back: theirs must be there still."""


class Visit(NamedTuple):
    """A client comes to door number `door` (modulo how many there are), so long after what went before."""

    after_s: float
    door: int


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much there is to do. `rate_per_s`: wishes that come per second on average, as long as fewer than
    `clients_max` are under way. `tenants`: API keys by tenant; empty: everybody is anonymous."""

    seed: int
    duration_s: float
    rate_per_s: float = 10.0
    clients_max: int = 200
    tenants: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one client wants, and how it behaves. `twice`: it sends the same under its key once more, so much later.
    `leave_after_s`: after the head it goes away, and comes back as `visits` say. `spy`: who else asks for its answer.
    """

    number: int
    way: Way
    dialect: Dialect
    tenant: str
    klass: Klass
    door: int
    body: bytes
    key: str = ""
    leaving: str = ""
    deadline_s: float | None = None
    twice: Visit | None = None
    leave_after_s: float | None = None
    visits: tuple[Visit, ...] = ()
    cancel: Visit | None = None
    read_every_s: float = 0.0
    spy: str = ""
    may_fail: str = ""


def wish(options: Options, number: int, tenants: tuple[str, ...]) -> Wish:
    """Wish `number` of a run; `tenants` are those there are."""
    rng = Random(f"wish/{options.seed}/{number}")
    way: Way = rng.choices(("stream", "whole", "direct"), weights=(8, 1, 1))[0]
    dialect: Dialect = rng.choices(("chat", "completion", "message", "response"), weights=(5, 2, 2, 1))[0]
    if way == "direct":
        dialect = rng.choice(("chat", "completion"))
    tenant = rng.choice(tenants)
    tokens = _tokens(rng)
    body = _body(rng, dialect, way, f"{tenant} asks {options.seed} {number}", tokens)
    fault = _fault(rng, tokens)
    may_fail = "poison" if fault and "slow_factor" not in fault else ""
    if fault:
        body["penstock_fault"] = fault
    deadline_s = rng.uniform(2.0, 60.0) if way != "direct" and rng.random() < 0.02 else None
    drawn = Wish(
        number=number,
        way=way,
        dialect=dialect,
        tenant=tenant,
        klass=rng.choices(CLASSES, weights=(4, 5, 1))[0],
        door=rng.randrange(1000),
        body=msgspec.json.encode(body),
        deadline_s=deadline_s,
        may_fail=may_fail or ("deadline" if deadline_s is not None else ""),
        cancel=_visit(rng, 4.0) if rng.random() < 0.05 else None,
    )
    return drawn if way == "direct" else _behaves(rng, drawn, tenants)


def gap_s(options: Options, number: int) -> float:
    """How long after the wish before it comes: arrivals know nothing of each other."""
    return Random(f"gap/{options.seed}/{number}").expovariate(options.rate_per_s)


def _behaves(rng: Random, drawn: Wish, tenants: tuple[str, ...]) -> Wish:
    """How a client over HTTP comes and goes."""
    more: dict[str, Any] = {}
    if rng.random() < 0.25:
        more["key"] = f"order-{drawn.number}"
        if rng.random() < 0.5:
            after_s = rng.choice((0.0, rng.uniform(0.0, 3.0)))
            more["twice"] = Visit(after_s, rng.randrange(1000))
    if drawn.way == "stream":
        leaves = rng.random()
        if leaves < 0.04:
            more |= {"leaving": "cancel", "leave_after_s": rng.uniform(0.0, 3.0)}
        elif leaves < 0.20:
            more |= {"leaving": rng.choice(POLICIES), "leave_after_s": rng.uniform(0.0, 3.0)}
            more["visits"] = tuple(_visit(rng, 1.5) for _ in range(rng.choice((1, 1, 2, 3))))
        elif leaves < 0.5:
            more["leaving"] = rng.choice(POLICIES)
        if rng.random() < 0.03:
            more["read_every_s"] = rng.choice((0.05, READ_EVERY_S_MAX))
    others = [tenant for tenant in tenants if tenant != drawn.tenant]
    if others and rng.random() < 0.02:
        more["spy"] = rng.choice(others)
    return Wish(**{name: getattr(drawn, name) for name in drawn.__dataclass_fields__} | more)


def _visit(rng: Random, most_s: float) -> Visit:
    return Visit(rng.uniform(0.0, most_s), rng.randrange(1000))


def _tokens(rng: Random) -> int:
    """Mostly short, as in life: between two magnitudes all are as likely."""
    return round(math.exp(rng.uniform(0.0, math.log(TOKENS_MAX))))


def _body(rng: Random, dialect: Dialect, way: Way, prompt: str, tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {"model": MODEL}
    if way == "stream":
        body["stream"] = True
    stop = rng.choice(STOPS) if rng.random() < 0.1 else None
    messages = [{"role": "user", "content": prompt}]
    match dialect:
        case "chat" | "completion":
            body |= {"messages": messages} if dialect == "chat" else {"prompt": prompt}
            body["max_tokens"] = tokens
            if way == "stream":
                body["stream_options"] = {"include_usage": True}
            if rng.random() < 0.1:
                body["n"] = rng.randint(2, CHOICES_MAX)
            if rng.random() < 0.2:
                body["seed"] = rng.randrange(1 << 31)
            if stop:
                body["stop"] = stop
        case "message":
            body |= {"messages": messages, "max_tokens": tokens}
            if stop:
                body["stop_sequences"] = [stop]
        case "response":
            body |= {"input": prompt, "max_output_tokens": tokens}
    return body


def _fault(rng: Random, tokens: int) -> dict[str, float]:
    chance = rng.random()
    if chance < POISON_SHARE:
        kinds, weights = zip(*POISONS, strict=True)
        return {rng.choices(kinds, weights=weights)[0]: rng.randrange(min(tokens, 20))}
    if chance < POISON_SHARE + SLOW_SHARE:
        return {"slow_factor": rng.choice((2.0, 4.0))}
    return {}
