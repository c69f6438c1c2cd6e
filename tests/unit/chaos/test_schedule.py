"""The plan of a run on real processes: the same for the same seed, and always within what leaves a system to serve."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.real.nemesis import CLIENT_ROLES
from chaos.real.schedule import NEMESES, OUTAGE_GAP_S, ROLE_OUT_S_MAX, kinds_for, plan_of
from chaos.real.shape import Shape

DISK_BYTES = 1 << 28

seeds = st.integers(0, 2**32)
shapes = st.builds(
    Shape,
    broker=st.sampled_from(["embedded", "cluster"]),
    edges=st.integers(1, 3),
    schedulers=st.integers(1, 3),
    workers=st.integers(1, 4),
    disk_bytes=st.sampled_from([0, DISK_BYTES]),
)


@given(seeds, shapes)
@settings(max_examples=25)
def test_a_plan_is_its_seed_s(seed: int, shape: Shape) -> None:
    assert plan_of(seed, shape, duration_s=120, interval_s=2) == plan_of(
        seed, shape, duration_s=120, interval_s=2
    )


@given(seeds, shapes)
@settings(max_examples=25)
def test_every_step_is_over_before_the_end(seed: int, shape: Shape) -> None:
    steps = plan_of(seed, shape, duration_s=120, interval_s=2)
    assert steps
    assert [step.id for step in steps] == list(range(1, len(steps) + 1))
    for step in steps:
        assert 0 < step.at_s < step.until_s <= 120
        low, high = NEMESES[step.kind].duration_s
        assert low <= step.duration_s <= high
        assert step.target in NEMESES[step.kind].targets(shape)


@given(seeds, shapes)
@settings(max_examples=25)
def test_there_is_always_somebody_left(seed: int, shape: Shape) -> None:
    """Looked at every tenth of a second: outages apart, nobody's role is all out of order for more than a breath."""
    steps = plan_of(seed, shape, duration_s=120, interval_s=1)
    out_since: dict[str, float] = {}
    for tenth in range(1200):
        now = tenth / 10
        active = [
            step
            for step in steps
            if step.at_s <= now < step.until_s and not NEMESES[step.kind].is_outage(shape)
        ]
        gone: frozenset[str] = frozenset().union(
            *(NEMESES[step.kind].disables(step.target, shape) for step in active)
        )
        for role in CLIENT_ROLES:
            names = shape.names(role)
            if len(names) > 1 and gone.issuperset(names):
                assert now - out_since.setdefault(role, now) <= ROLE_OUT_S_MAX
            else:
                out_since.pop(role, None)
        if shape.nodes > 1:
            assert len(gone.intersection(shape.names("broker"))) <= 1


@given(seeds, shapes)
@settings(max_examples=25)
def test_nothing_is_hit_twice_at_once_and_outages_leave_time(seed: int, shape: Shape) -> None:
    steps = plan_of(seed, shape, duration_s=120, interval_s=1)
    for index, step in enumerate(steps):
        for later in steps[index + 1 :]:
            touched = NEMESES[step.kind].touches(step.target, shape)
            if touched & NEMESES[later.kind].touches(later.target, shape):
                assert later.at_s > step.until_s
            if NEMESES[step.kind].is_outage(shape) and NEMESES[later.kind].is_outage(shape):
                assert later.at_s - step.until_s >= OUTAGE_GAP_S


def test_faults_overlap_and_every_kind_has_its_turn() -> None:
    for shape in (Shape(disk_bytes=DISK_BYTES), Shape(broker="cluster", disk_bytes=DISK_BYTES)):
        steps = plan_of(7, shape, duration_s=900, interval_s=2.5)
        assert {step.kind for step in steps} == set(kinds_for(shape))
        assert len(steps) >= 200
        assert any(step.until_s > later.at_s for step, later in pairwise(steps))


def test_only_the_wanted_kinds_come() -> None:
    steps = plan_of(3, Shape(), duration_s=60, interval_s=1, kinds=["kill worker", "reset"])
    assert {step.kind for step in steps} == {"kill worker", "reset"}
    assert plan_of(3, Shape(), duration_s=60, interval_s=1, kinds=["kill leader"]) == []
