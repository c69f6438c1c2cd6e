"""Whole systems in virtual time: a thousand seeds, what they went through, and that a seed is one world for ever."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import plan, steps
from chaos.runner import Summary, run_seed, run_seeds

ROOT = Path(__file__).parents[2]

SEEDS = (1, 1000)

SEEN_TWICE = (1, 8, 36, 95, 216, 253, 2044)

RECORDS = {
    *(f"lease {cause}" for cause in ("first", "worker_dead", "engine_error", "handoff", "redelivered")),
    *("tok", "repeated tok", "failed", "handoff"),
    *("END ok", "END error poison", "END error bad_request", "END cancelled cancelled"),
    *("END expired queue_timeout", "END expired request_timeout"),
}

OUTCOMES = {
    *("client ok", "client left", "client broken", "client refused", "client queue_full", "client poison"),
    *("client outcome_unknown", "client draining", "client queue_timeout", "client request_timeout"),
    *("drained", "engine stalled", "removed acked", "removed deleted", "checked slot after cancel"),
}

COMMANDED = {
    *("came back", "came back: ok"),
    *("asked again", "several were answered under a key", "runs of a key that ended well: 1"),
    *(
        "cancel answered 200",
        "cancel answered 404",
        "cancel while open: cancelled",
        "cancel while open: completed",
    ),
}

CROWDED = {
    *("client quota_exceeded", "client rate_limited", "client no_slot", "client too_late"),
    *("END error quota_exceeded", "bound reached", "bound not reached", "rate checked"),
    *("came again after quota_exceeded", "came again after rate_limited", "came again after no_slot"),
    *("came again after queue_full", "came again after too_late", "came again: ok"),
}

MOMENTS = {f"on {moment}" for moment in plan.MOMENTS}

STRUCK = {
    "struck busy",
    "struck lose_acks",
    "struck lose_live",
    "struck lose_publishes",
    "spurious redelivery",
}


@pytest.fixture(scope="module")
def thousand() -> Summary:
    return run_seeds(*SEEDS, jobs=os.cpu_count() or 1)


def test_a_thousand_worlds_keep_every_promise(thousand: Summary) -> None:
    print(f"{thousand.seeds} worlds, {thousand.seeds_per_s:.0f}/s, {thousand.virtual_s:.0f} virtual seconds")
    broken = [
        f"{failure.invariant}: {failure.what} (python -m chaos --seed {failure.seed} --story)"
        for failure in thousand.failures
    ]
    assert not broken
    assert thousand.seeds == SEEDS[1] - SEEDS[0] + 1


def test_everything_that_can_happen_in_a_world_did(thousand: Summary) -> None:
    """A world where nothing happened proves nothing."""
    expected = {*steps.COMMANDS, *steps.FAULTS, *RECORDS, *OUTCOMES, *COMMANDED, *CROWDED, *MOMENTS, *STRUCK}
    assert not expected - thousand.exercised.keys()


def test_every_fault_that_is_drawn_is_known_and_the_other_way_round() -> None:
    assert plan.FAULTS.keys() == steps.FAULTS.keys()


def test_most_requests_end_well_in_spite_of_all(thousand: Summary) -> None:
    ends = {name: count for name, count in thousand.exercised.items() if name.startswith("END")}
    assert ends["END ok"] > 0.6 * sum(ends.values())


@pytest.mark.parametrize("seed", SEEN_TWICE)
def test_a_seed_is_one_world(seed: int) -> None:
    first, second = (run_seed(seed, with_story=True) for _ in range(2))
    assert first.story
    assert first.story == second.story
    assert first.exercised == second.exercised
    assert run_seed(seed, checked=False).exercised == first.exercised, "being watched changes nothing"


def test_a_seed_is_one_world_in_every_process() -> None:
    """Nothing depends on how sets of strings happen to be ordered in a process."""
    program = (
        "import hashlib\n"
        "from chaos.runner import run_seed\n"
        f"for seed in {SEEN_TWICE}:\n"
        "    story = '\\n'.join(run_seed(seed, with_story=True).story)\n"
        "    print(hashlib.sha256(story.encode()).hexdigest())\n"
    )
    here = [
        hashlib.sha256("\n".join(run_seed(seed, with_story=True).story).encode()).hexdigest()
        for seed in SEEN_TWICE
    ]
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        there = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.split() == here


def test_a_world_without_some_of_its_steps_is_another_one() -> None:
    whole = plan.plan_of(SEEN_TWICE[0])
    fewer = whole.without({0})
    assert [step.number for step in fewer.steps] == [step.number for step in whole.steps][1:]
    assert run_seed(SEEN_TWICE[0], dropped={0}, with_story=True).violation is None


def test_the_story_can_be_read_on_the_command_line(tmp_path: Path) -> None:
    def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "chaos", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)

    told = chaos("--seed", "1", "--story")
    assert told.returncode == 0, told.stderr
    assert "every promise was kept" in told.stdout
    assert "asks edge-0" in told.stdout
    result = tmp_path / "result.json"
    many = chaos("--seeds", "1-4", "--jobs", "1", "--result", str(result))
    assert many.returncode == 0, many.stderr
    assert '"seeds": 4' in result.read_text(encoding="utf-8")
