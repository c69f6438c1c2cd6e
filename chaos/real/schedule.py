"""Which fault hits whom, when and for how long: a pure function of a seed, within limits that leave a system to serve.

Faults overlap, as they do in life, but no two touch the same process or link, at no time is more than a breath
everybody of a role out of order, and all are over before the end.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

from chaos.real.nemeses import ON_PROCESSES
from chaos.real.nemeses_cluster import ON_CLUSTER
from chaos.real.nemeses_links import ON_LINKS
from chaos.real.nemesis import CLIENT_ROLES, Nemesis, Step
from chaos.real.shape import Shape

NEMESES: dict[str, type[Nemesis]] = {
    nemesis.kind: nemesis for nemesis in (*ON_PROCESSES, *ON_LINKS, *ON_CLUSTER)
}

FIRST_AT_S = 2.0
"""Something has to be under way before it can be hit."""
TOUCH_GAP_S = 2.0
"""Between two faults of one process or link: time to be started again and to be given something to do."""
OUTAGE_GAP_S = 12.0
"""Between two faults that hit everybody: a cluster elects within 4 to 9 s."""
ROLE_OUT_S_MAX = 2.0
"""All processes of a role may be out of order at once for this long."""
DRAWS = 12
"""How often another fault is drawn for one that does not fit; then that moment passes without."""


def kinds_for(shape: Shape) -> list[str]:
    """The faults that such a system can have."""
    return [kind for kind, nemesis in NEMESES.items() if nemesis.targets(shape)]


def plan_of(
    seed: int, shape: Shape, *, duration_s: float, interval_s: float, kinds: Sequence[str] | None = None
) -> list[Step]:
    """The steps of a run, in order: one begins every `interval_s` on average, and each kind as often as the others.

    `kinds`: only these, by their names.
    """
    rng = random.Random(seed)
    wanted = [kind for kind in kinds_for(shape) if kinds is None or kind in kinds]
    if not wanted:
        return []
    steps: list[Step] = []
    deck: list[str] = []
    at_s = FIRST_AT_S
    while at_s < duration_s:
        for _ in range(DRAWS):
            if not deck:
                deck = rng.sample(wanted, len(wanted))
            step = _draw(rng, deck[-1], len(steps) + 1, at_s, shape)
            if step.until_s <= duration_s and _fits(step, steps, shape):
                steps.append(step)
                deck.pop()
                break
            # What does not fit now is put off, not forgotten.
            deck.insert(rng.randrange(len(deck)), deck.pop())
        at_s += rng.expovariate(1 / interval_s)
    return steps


def _draw(rng: random.Random, kind: str, number: int, at_s: float, shape: Shape) -> Step:
    target, duration_s, strength = NEMESES[kind].choose(rng, shape)
    return Step(number, round(at_s, 3), kind, target, duration_s, strength)


def _fits(step: Step, steps: Iterable[Step], shape: Shape) -> bool:
    touched, is_outage = _touches(step, shape), NEMESES[step.kind].is_outage(shape)
    others = list(steps)
    for other in others:
        if _overlap_s(step, other, TOUCH_GAP_S) > 0 and touched & _touches(other, shape):
            return False
        outages = is_outage and NEMESES[other.kind].is_outage(shape)
        if outages and _overlap_s(step, other, OUTAGE_GAP_S) > 0:
            return False
    return is_outage or not _takes_the_last(step, others, shape)


def _takes_the_last(step: Step, others: list[Step], shape: Shape) -> bool:
    """Whether it and others would leave too few of a role, for too long. Outages are limited by themselves, and where
    there is only one of a role it may be hit."""
    beside = [
        other
        for other in others
        if _overlap_s(step, other, 0) > 0 and not NEMESES[other.kind].is_outage(shape)
    ]
    for role in (*CLIENT_ROLES, "broker"):
        names = frozenset(shape.names(role))
        together = [other for other in beside if names & _disables(other, shape)]
        if not together or not names & _disables(step, shape):
            continue
        # Two of three brokers are a majority; of the others one is enough.
        spare = (len(names) - 1) // 2 if role == "broker" else len(names) - 1
        allowed_s = 0.0 if role == "broker" else ROLE_OUT_S_MAX
        if _out_s([step, *together], names, spare, shape) > allowed_s:
            return True
    return False


def _out_s(steps: list[Step], names: frozenset[str], spare: int, shape: Shape) -> float:
    """The longest time in which the steps put more than `spare` of `names` out of order: one step after the other may
    keep a role out for longer than any two of them last together."""
    longest_s = out_s = 0.0
    for since, until in pairwise(sorted({at for step in steps for at in (step.at_s, step.until_s)})):
        gone = frozenset[str]().union(
            *(names & _disables(step, shape) for step in steps if step.at_s <= since < step.until_s)
        )
        out_s = out_s + until - since if len(gone) > spare else 0.0
        longest_s = max(longest_s, out_s)
    return longest_s


def _touches(step: Step, shape: Shape) -> frozenset[str]:
    return NEMESES[step.kind].touches(step.target, shape)


def _disables(step: Step, shape: Shape) -> frozenset[str]:
    return NEMESES[step.kind].disables(step.target, shape)


def _overlap_s(one: Step, other: Step, gap_s: float) -> float:
    """How long both last, each made longer by the gap behind it."""
    return min(one.until_s, other.until_s) + gap_s - max(one.at_s, other.at_s)
