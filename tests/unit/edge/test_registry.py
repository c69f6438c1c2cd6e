"""Which models there are, by heartbeat."""

from __future__ import annotations

from typing import Literal

import pytest

from edge.errors import Problem
from edge.registry import LEADER_SILENT_S, MODELS_MAX, Registry, name_asked
from schemas.dispatch import Leader, ModelCard, ModelState
from schemas.ids import model_key

SEEN_S = 60.0


def card(name: str = "m", *adapters: str) -> ModelCard:
    return ModelCard(model_key(name), name, "simulator", 4096, 256, list(adapters))


def state(name: str = "m", *adapters: str, workers: int = 1, seen_age_s: float = 0.1) -> ModelState:
    return ModelState(card(name, *adapters), workers, 4 * workers, 2 * workers, seen_age_s)


def leader(*models: ModelState, term: int = 1, depth: int = 3) -> Leader:
    return Leader("s1", term, depth, list(models))


def heard(
    *models: ModelState, now: float = 0.0, cold_start: Literal["queue", "reject"] = "queue"
) -> Registry:
    registry = Registry(model_seen_s=SEEN_S, cold_start=cold_start)
    registry.heard(leader(*models), now)
    return registry


def reason(found: ModelCard | Problem) -> str:
    assert isinstance(found, Problem)
    return found.reason


def test_a_model_with_a_live_worker_is_found_by_its_name() -> None:
    registry = heard(state("Qwen/Qwen2.5-1.5B"), state("m"))
    assert registry.find("Qwen/Qwen2.5-1.5B", 0.0) == card("Qwen/Qwen2.5-1.5B")
    assert registry.find("m", 0.0) == card("m")


def test_an_unknown_model_is_not_found() -> None:
    assert reason(heard(state()).find("other", 0.0)) == "model_not_found"
    assert reason(heard(state()).find("", 0.0)) == "model_not_found"


def test_an_adapter_is_found_as_the_model_that_runs_it() -> None:
    registry = heard(state("Qwen/Base", "team/Tuned", "short"), state("short"))
    base = card("Qwen/Base", "team/Tuned", "short")
    assert registry.find("team/Tuned", 0.0) == base
    assert registry.find("short", 0.0) == card("short"), "a model's own name comes first"
    assert reason(registry.find("team/tuned", 0.0)) == "model_not_found"
    names = ("Qwen/Base", "team/Tuned", None, base.key)
    assert [name_asked(base, name) for name in names] == ["Qwen/Base", "team/Tuned", "Qwen/Base", "Qwen/Base"]
    registry.heard(leader(state("Qwen/Base"), state("other", "team/Tuned", seen_age_s=9)), 1.0)
    assert registry.find("team/Tuned", 1.0) == card("other", "team/Tuned"), "it moves with the heartbeats"
    registry.heard(leader(state("Qwen/Base", "team/Tuned"), state("other", "team/Tuned", seen_age_s=9)), 2.0)
    assert registry.find("team/Tuned", 2.0) == card("Qwen/Base", "team/Tuned"), "the one that was seen last"


def test_an_adapter_is_queued_for_as_long_as_its_model_is() -> None:
    registry = heard(state("m", "tuned", workers=0, seen_age_s=10))
    assert registry.find("tuned", SEEN_S - 11) == card("m", "tuned")
    assert reason(registry.find("tuned", SEEN_S - 9)) == "no_workers"


def test_a_model_seen_lately_is_queued_for() -> None:
    registry = heard(state(workers=0, seen_age_s=10))
    assert registry.find("m", SEEN_S - 11) == card()
    assert reason(registry.find("m", SEEN_S - 9)) == "no_workers"


def test_a_model_without_a_worker_may_be_refused_at_once() -> None:
    registry = heard(state("a", workers=0, seen_age_s=1), state("b"), cold_start="reject")
    assert reason(registry.find("a", 0.0)) == "no_workers"
    assert reason(registry.find("never seen", 0.0)) == "model_not_found"
    assert registry.find("b", 0.0) == card("b")
    assert registry.offered(0.0) == [card("b")]


@pytest.mark.parametrize(("used", "is_full"), [(0.0, False), (0.79, False), (0.8, True), (1.0, True)])
def test_the_leader_says_how_much_room_is_left_for_output(used: float, is_full: bool) -> None:
    registry = heard(state())
    assert not registry.output_is_full
    registry.heard(Leader("s1", 1, 0, [state()], used), 0.1)
    assert registry.output_is_full == is_full
    registry.heard(Leader("s1", 1, 0, [state()], 0.1), 0.2)
    assert not registry.output_is_full, "it recovers by itself"


def test_before_the_first_heartbeat_nobody_can_say_that_a_model_does_not_exist() -> None:
    assert reason(Registry(model_seen_s=SEEN_S, cold_start="queue").find("m", 0.0)) == "no_workers"


def test_the_only_model_is_the_default() -> None:
    assert heard(state()).find(None, 0.0) == card()
    assert heard(state(), state("gone", workers=0, seen_age_s=1e6)).find(None, 0.0) == card()


def test_with_several_models_or_none_the_request_must_name_one() -> None:
    for registry in (heard(state("a"), state("b")), heard()):
        assert reason(registry.find(None, 0.0)) == "bad_request"


def test_a_model_that_a_new_leader_does_not_know_is_remembered() -> None:
    registry = heard(state(), now=0.0)
    registry.heard(leader(term=2), 1.0)
    assert registry.find("m", 2.0) == card()
    assert not registry.has_live_worker()
    assert reason(registry.find("m", SEEN_S + 1)) == "no_workers"


def test_an_old_leader_is_not_heard_beside_a_new_one() -> None:
    registry = Registry(model_seen_s=SEEN_S, cold_start="queue")
    registry.heard(leader(state(), term=2), 0.0)
    registry.heard(leader(term=1), 0.1)
    assert registry.has_live_worker()
    registry.heard(leader(term=1), LEADER_SILENT_S + 1)
    assert not registry.has_live_worker(), "terms may begin again with a new broker"


def test_the_last_view_is_kept_while_no_leader_speaks() -> None:
    registry = heard(state(), now=0.0)
    assert registry.find("m", 1000.0) == card()
    assert registry.health(1000.0, connected=True).status == "degraded"


def test_health() -> None:
    registry = Registry(model_seen_s=SEEN_S, cold_start="queue")
    assert registry.health(0.0, connected=True).status == "starting"
    registry.heard(leader(state("b"), state("a", workers=2)), 0.0)
    health = registry.health(1.0, connected=True)
    assert (health.status, health.queue_depth, health.active_requests) == ("ok", 0, 6)
    assert [(m.id, m.workers, m.slots, m.free) for m in health.models] == [("a", 2, 8, 4), ("b", 1, 4, 2)]
    assert registry.health(1.0, connected=False).status == "down"
    registry.heard(leader(state("a", workers=0), state("b", workers=0)), 1.0)
    gone = registry.health(1.0, connected=True)
    assert (gone.status, gone.detail, gone.serves) == ("down", "no_workers", False)


def test_a_leader_without_any_worker_yet_is_a_start() -> None:
    health = heard().health(0.0, connected=True)
    assert (health.status, health.detail, health.serves) == ("starting", "no_workers", False)


def test_what_waits_and_runs_is_told() -> None:
    waiting = ModelState(card("a"), 2, 8, 3, 0.1, idle=1, waiting={"standard": 4, "batch": 2})
    stats = heard(waiting, state("b")).queue_stats()
    assert (stats.pending_requests, stats.processing_requests) == (6, 5 + 2)
    assert (stats.idle_workers, stats.busy_workers, stats.total_workers) == (1, 2, 3)


def test_only_models_that_are_queued_for_are_offered() -> None:
    registry = heard(state("b"), state("a", workers=0, seen_age_s=5), state("c", workers=0, seen_age_s=99))
    assert [one.name for one in registry.offered(0.0)] == ["a", "b"]


def test_the_models_remembered_are_bounded() -> None:
    registry = heard(*(state(f"m{i}", seen_age_s=float(i)) for i in range(MODELS_MAX + 5)))
    assert len(registry.offered(0.0)) == MODELS_MAX
    assert reason(registry.find(f"m{MODELS_MAX}", 0.0)) == "model_not_found"
