"""The worker: which requests it takes, which attempt an event belongs to, and what it tells the scheduler.

Pure and synchronous: `handle(event, now)` returns what is to be done, in order; `next_deadline()` says when it wants
a `Tick`. `now` is in seconds of any clock that only goes forward. The shell executes actions in the order given: the
bytes of a lease are on their way before the engine gets the request.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

from schemas.dispatch import Answer, ModelCard, Pull, Running, WorkItem
from schemas.ids import ModelKey
from schemas.streams import OUTPUT_END_AT
from workers.attempt import Attempt
from workers.engines.base import Capabilities
from workers.events import (
    Ack,
    Action,
    AttemptEvent,
    ConnectionChanged,
    Drain,
    EngineHung,
    EngineProgress,
    Event,
    HandOff,
    LeaderSeen,
    Offered,
    Reply,
    SendPull,
    Settled,
    Tick,
)
from workers.limits import Worker, WorkerLimits

ENDED_MAX = 1024
ENDED_S = 60.0
"""Requests that ended here and may be offered once more because their ack was lost or an offer was slow: as many as a
worker ends in some seconds, and far shorter than an END stays readable."""


class WorkerCore:
    """One worker. Bounded: at most `slots` requests on the engine, and as many again that only wait for their END."""

    def __init__(
        self, worker_id: str, card: ModelCard, capabilities: Capabilities, limits: WorkerLimits
    ) -> None:
        self._worker = Worker(worker_id, ModelKey(card.key), capabilities, limits)
        self._card = card
        self._limits = limits
        self._attempts: dict[str, Attempt] = {}
        self._busy = 0
        self._ended: dict[str, float] = {}
        self._timers: list[tuple[float, str]] = []
        self._watched: dict[str, float] = {}
        self._work_seq = 0
        self._term = 0
        self._is_leaving = False
        self._told_free = -1
        self._pull_at = inf
        self._full_pull_at = -inf

    @property
    def drained(self) -> bool:
        """Whether a drain is over: nothing is taken, nothing runs."""
        return self._is_leaving and not self._attempts

    def handle(self, event: Event, now: float) -> list[Action]:
        """The only thing that changes the worker. Every event is welcome at any time."""
        match event:
            case Offered():
                actions = self._on_offered(event, now)
            case LeaderSeen():
                actions = self._on_leader(event, now)
            case ConnectionChanged():
                actions = self._on_connection(event.connected, now)
            case EngineProgress():
                self._worker.looked(event.steps, event.last_step_at, now)
                return []
            case Tick():
                actions = self._on_tick(now)
            case Drain():
                self._is_leaving = True
                self._pull_at = now
                actions = []
            case HandOff():
                self._is_leaving = True
                self._pull_at = now
                actions = self._each(lambda attempt: attempt.hand_off(now), now)
            case _:
                return self._on_attempt_event(event, now)
        return self._with_pull(actions, now)

    def has(self, key: str) -> bool:
        """Whether this request is here."""
        return key in self._attempts

    def next_deadline(self) -> float | None:
        """When the next `Tick` is wanted; None: never."""
        # A pull that cannot be sent is not due: the first one after a reconnect tells everything.
        pull_at = min(self._full_pull_at, self._pull_at) if self._worker.connected else inf
        at = min(pull_at, self._timers[0][0] if self._timers else inf)
        return None if at == inf else at

    def check(self) -> None:
        """Asserts the invariants."""
        assert self._busy == sum(attempt.occupies for attempt in self._attempts.values())
        assert len(self._attempts) <= 2 * self._limits.slots
        assert len(self._ended) <= ENDED_MAX
        for key, attempt in self._attempts.items():
            assert attempt.key == key
            assert attempt.state != "settled", "a settled request is forgotten"
            assert self._watched[key] <= attempt.due, "every deadline has a timer"
            attempt.check()

    @property
    def _free(self) -> int:
        if self._is_leaving or self._worker.is_output_full:
            return 0
        slots = self._limits.slots
        return max(0, min(slots - self._busy, 2 * slots - len(self._attempts)))

    def _on_attempt_event(self, event: AttemptEvent, now: float) -> list[Action]:
        """The token path: no work here that is not needed for every token."""
        attempt = self._attempts.get(event.key)
        if attempt is None:
            return []
        was_busy = attempt.occupies
        actions = attempt.handle(event, now)
        self._note(attempt, was_busy, actions, now)
        return actions

    def _on_offered(self, event: Offered, now: float) -> list[Action]:
        if not self._worker.connected:
            # The offer came by a connection that is gone, and a lease could not leave before the engine starts.
            return []
        self._work_seq = event.work.seq
        answers: list[Answer] = []
        actions: list[Action] = []
        for item in event.work.items:
            answer, begun = self._on_item(item, event.traces, now)
            answers.append(answer)
            actions += begun
        return [Reply(event.reply, answers), *actions]

    def _on_item(self, item: WorkItem, traces: dict[str, str], now: float) -> tuple[Answer, list[Action]]:
        key = f"{item.tenant}.{item.rid}"
        running = self._attempts.get(key)
        if running is not None:
            running.offer_again(item, now)
            self._watch(running)
            return "mine", []
        if now - self._ended.get(key, -inf) < ENDED_S:
            return "done", [Ack(item.ack)]
        if self._is_leaving:
            return "draining", []
        if self._free == 0:
            return "full", []
        attempt = self._attempts[key] = Attempt(item, self._worker, now, traces.get(key, ""))
        self._watched[key] = inf
        actions = attempt.accept(now)
        self._note(attempt, False, actions, now)
        return "accepted", actions

    def _on_leader(self, event: LeaderSeen, now: float) -> list[Action]:
        if event.term > self._term:
            self._term = event.term
            self._full_pull_at = min(self._full_pull_at, now)
        is_full = event.output_used >= OUTPUT_END_AT
        if is_full == self._worker.is_output_full:
            return []
        self._worker.is_output_full = is_full
        self._tell_free(now)
        return self._each(lambda attempt: attempt.cut_off(now), now) if is_full else []

    def _on_connection(self, connected: bool, now: float) -> list[Action]:
        self._worker.connected = connected
        self._pull_at = inf
        self._full_pull_at = now if connected else inf
        return self._each(lambda attempt: attempt.connection_changed(now), now)

    def _on_tick(self, now: float) -> list[Action]:
        due: list[Attempt] = []
        while self._timers and self._timers[0][0] <= now:
            at, key = heapq.heappop(self._timers)
            if self._watched.get(key) == at:
                self._watched[key] = inf
                due.append(self._attempts[key])
        actions: list[Action] = []
        for attempt in due:
            was_busy = attempt.occupies
            done = attempt.tick(now) if attempt.due <= now else []
            assert attempt.state == "settled" or attempt.due > now, "a tick leaves nothing due"
            self._note(attempt, was_busy, done, now)
            actions += done
        if now >= self._full_pull_at and self._is_hung(now):
            actions.append(EngineHung(self._worker.step_s_max))
        return actions

    def _is_hung(self, now: float) -> bool:
        """Whether the engine owes tokens and does not step. Asked at every heartbeat; a long step is no hang."""
        patience_s = self._worker.step_s_max
        if now - self._worker.last_step_at < patience_s:
            return False
        waiting_since = [attempt.run.owes_since for attempt in self._attempts.values()]
        return any(since is not None and now - since >= patience_s for since in waiting_since)

    def _each(self, act: Callable[[Attempt], list[Action]], now: float) -> list[Action]:
        actions: list[Action] = []
        for attempt in list(self._attempts.values()):
            was_busy = attempt.occupies
            done = act(attempt)
            self._note(attempt, was_busy, done, now)
            actions += done
        return actions

    def _note(self, attempt: Attempt, was_busy: bool, actions: list[Action], now: float) -> None:
        """Books what an event changed: the slot, the deadline, the end. A change of credit is told with the next tick,
        which is due at once: many changes of one moment are one pull."""
        if attempt.occupies != was_busy:
            self._busy += 1 if attempt.occupies else -1
            self._tell_free(now)
        if attempt.state == "settled":
            self._forget(attempt, actions, now)
            self._tell_free(now)
        else:
            self._watch(attempt)

    def _tell_free(self, now: float) -> None:
        if self._free != self._told_free and self._worker.connected:
            self._pull_at = min(self._pull_at, now)

    def _forget(self, attempt: Attempt, actions: list[Action], now: float) -> None:
        del self._attempts[attempt.key]
        del self._watched[attempt.key]
        settled = actions[-1]
        assert isinstance(settled, Settled), "the last thing an attempt says is that it is settled"
        if settled.outcome == "ended":
            self._ended.pop(attempt.key, None)
            self._ended[attempt.key] = now
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]

    def _watch(self, attempt: Attempt) -> None:
        """One timer per attempt, moved lazily: a deadline that moves back, as with every append, costs nothing until
        its timer fires."""
        due = attempt.due
        if due < self._watched[attempt.key]:
            self._watched[attempt.key] = due
            heapq.heappush(self._timers, (due, attempt.key))

    def _with_pull(self, actions: list[Action], now: float) -> list[Action]:
        """The pull that is due now, if one is: a full one (the heartbeat) lists what runs."""
        if not self._worker.connected or now < min(self._pull_at, self._full_pull_at):
            return actions
        running = None
        if now >= self._full_pull_at:
            self._full_pull_at = now + self._limits.pull_interval_s
            running = [
                Running(item.rid, item.ack, item.tenant, item.meta.grace_s, attempt.run.has_spoken)
                for attempt in self._attempts.values()
                for item in [attempt.item]
            ]
        self._pull_at = inf
        self._told_free = self._free
        pull = Pull(
            worker=self._worker.id,
            model=self._card,
            slots=self._limits.slots,
            free=self._told_free,
            work_seq=self._work_seq,
            steps=self._worker.steps,
            running=running,
            leaving=self._is_leaving,
        )
        return [*actions, SendPull(pull)]
