"""The scheduler's decisions: a state machine without clock, randomness or I/O.

`handle` takes one event and returns what to do about it, in order. What it knows is soft: a core that starts empty
learns the workers from their pulls and the requests from their deliveries. Two cores that both believe to lead do no
harm: the broker gives a message to one of them, and a lease fences what both sent out.

A held request goes: delivered, [reading its log], waiting, offered, handed over to a worker;
or, from any place but offered: closing, settled with an END.
"""

from __future__ import annotations

from math import inf
from typing import assert_never

from msgspec.structs import replace

from scheduler import events, quota_events
from scheduler.events import Action, Event
from scheduler.fetching import Fetching
from scheduler.fleet import Fleet, Lost, name_of
from scheduler.holding import Name
from scheduler.limits import Limits
from scheduler.models import Model, Models
from scheduler.quotas import Quotas
from scheduler.readers import Readers
from scheduler.requests import Requests
from scheduler.turn import Turn
from schemas.dispatch import Leader, ModelState, Pull
from schemas.ids import ModelKey, WorkerId, is_key
from schemas.requests import CLASSES, Klass
from schemas.streams import OUTPUT_HOLD_AT

SWEEP_S = 0.1
"""How often what needs no exact time is looked at: silent workers, lost fetches, refused requests to offer again."""

STRAGGLER_S = 1.0
"""Delay of a NAK for a delivery that comes to a scheduler that does not lead: by then its fetches are over."""

OWN_PAUSE_S = 1.0
"""A core runs at least every `SWEEP_S`. After a gap this long it was paused itself and knows nothing of others."""

READERS_INTERVAL_S = 0.5
"""How often it is looked for requests that nobody reads; edges tell once a second who reads."""

CANCEL_REASON_MAX = 1000
"""Characters of a canceller's own words that END repeats to the client."""

SLOTS_MAX = 65_536
"""What a worker may claim to have; the same as the setting allows."""


class Core:
    """One scheduler's decisions. `now` is in seconds of a clock that never goes back and counts suspended time."""

    def __init__(self, scheduler: str, limits: Limits) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._fleet = Fleet(suspect_s=limits.worker_suspect_s, silent_s=limits.worker_silent_s)
        self._models = Models(
            lead=limits.window_lead,
            bytes_max=limits.window_bytes_max,
            seen_s=limits.model_seen_s,
            # What was queued while a model was known has timed out by then: nothing is left to be found.
            kept_s=max(limits.request_timeout_max_s, limits.model_seen_s),
        )
        self._turn = Turn()
        self._requests = Requests(limits, self._fleet, self._models, self._turn)
        self._fetching = Fetching(limits, self._fleet, self._models, self._turn)
        self._quotas = Quotas(limits, self._models, self._turn)
        self._readers = Readers(silent_s=limits.edge_silent_s)
        self._sweep_at = -inf
        self._look_for_readers_at = -inf
        self._batch_at = inf
        self._announce_at = inf
        self._term = 0
        self._queue_depth = 0
        self._output_used = 0.0

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes in one event. Total: whatever others send, it returns actions."""
        actions = self._advance(now)
        match event:
            case events.Delivered():
                self._on_delivered(event)
            case events.Answered():
                self._requests.answered(event)
            case events.PullReceived(pull):
                self._on_pull(pull)
            case events.CtlRead(tenant, rid, entry):
                self._requests.ctl_read((tenant, rid), entry)
            case events.CloseRefused(tenant, rid):
                self._requests.close_refused((tenant, rid))
            case events.HistoryRead():
                self._requests.history_read(event)
            case events.EndWritten(tenant, rid):
                self._requests.end_written((tenant, rid))
            case events.CallFailed(tenant, rid):
                self._requests.call_failed((tenant, rid))
            case events.CancelHinted(tenant, rid):
                self._requests.cancel_hinted((tenant, rid))
            case events.CancelWished(tenant, rid, reason, reply_to):
                self._on_cancel_wished((tenant, rid), reason, reply_to)
            case events.CancelOver(tenant, rid):
                self._requests.cancel_over((tenant, rid))
            case events.EdgeHeard(beat):
                self._readers.heard(beat, now)
            case events.FetchEnded():
                self._fetching.ended(event)
            case events.OfferFailed(worker, seq):
                self._requests.offer_failed(worker, seq)
            case events.ProbeAnswered(worker, alive):
                self._on_probe_answered(worker, alive)
            case events.ConsumersReady(key, age_s):
                self._fetching.ready(key, age_s)
            case events.ConsumerGone(key):
                self._fetching.gone(key)
            case events.ConsumerSeen():
                self._fetching.seen(event)
            case events.BecameLeader():
                self._on_became_leader(event)
            case events.LostLeadership():
                self._on_lost_leadership()
            case events.ConnectionChanged(connected):
                self._on_connection_changed(connected)
            case events.QueueDepth(requests):
                self._queue_depth = requests
                self._quotas.depth(requests)
            case events.OutputUsed(share):
                self._on_output_used(share)
            case events.Tick():
                pass
            case (
                quota_events.QueueCounted()
                | quota_events.OverFound()
                | quota_events.QuotaCallFailed()
                | quota_events.RefusalOver()
            ):
                self._quotas.handle(event)
            case _:
                assert_never(event)
        self._serve()
        return actions

    @property
    def leading(self) -> bool:
        """Whether this scheduler leads."""
        return self._turn.leading

    @property
    def held(self) -> int:
        """Requests held, wherever they stand."""
        return len(self._requests)

    def held_of(self, model: str) -> int:
        """Requests held of a model, by its key."""
        known = self._models.get(ModelKey(model))
        return 0 if known is None else known.window.held

    def is_dead(self, worker: WorkerId, now: float) -> bool:
        """Whether a worker that once was there is not any more."""
        return self._fleet.is_dead(worker, now)

    def model_of(self, worker: WorkerId) -> str | None:
        """The name of the model that a live worker serves."""
        known = self._fleet.get(worker)
        return None if known is None else known.pull.model.name

    def to_look_at(self, now: float) -> list[tuple[Klass, ModelKey]]:
        """Consumers that should be asked now what they have yet to deliver; say ConsumerSeen of each that answers."""
        return self._fetching.to_look_at(now)

    def next_deadline(self) -> float | None:
        """When `handle(Tick())` is wanted at the latest; None before the first event."""
        if self._turn.now == -inf:
            return None
        return min(self._sweep_at, self._batch_at, self._requests.next_deadline())

    def check(self) -> None:
        """Asserts every invariant; for tests, after each event."""
        self._fleet.check()
        self._requests.check()
        self._readers.check()
        self._quotas.check()
        for model in self._models:
            model.window.check()
            assert self._turn.leading or not any(model.window.credit(klass) for klass in CLASSES)
        deadline = self.next_deadline()
        assert deadline is None or deadline > self._turn.now, "everything due has been done"

    def _advance(self, now: float) -> list[Action]:
        """Brings everything up to `now`, before the event that came then."""
        assert now >= self._turn.now, "time never goes back"
        if self._turn.connected and now - self._turn.now > OWN_PAUSE_S:
            self._watch_from(now)
        actions: list[Action] = []
        self._turn.now = now
        self._turn.out = actions
        self._requests.advance()
        if self._batch_at <= now:
            self._stir_all()
        if self._sweep_at <= now:
            self._sweep_at = now + SWEEP_S
            self._sweep()
        return actions

    def _sweep(self) -> None:
        probes, lost = self._fleet.sweep(self._turn.now)
        for one in lost:
            self._on_lost(one)
        if self._turn.leading:
            self._out(*(events.Probe(worker) for worker in probes))
        self._out(*(events.StopFetching(key) for key in self._models.forget_old(self._turn.now)))
        for model in self._models:
            model.window.write_off(self._turn.now)
            self._fetching.ensure(model)
        self._stir_all()
        if self._requests.dispatcher.holds_new:
            self._requests.rotate()
        if self._turn.connected and self._look_for_readers_at <= self._turn.now:
            self._look_for_readers_at = self._turn.now + READERS_INTERVAL_S
            self._look_for_readers()
        if self._turn.leading and self._announce_at <= self._turn.now:
            self._announce()

    def _look_for_readers(self) -> None:
        """Standbys keep the books, too; only the leader ends what nobody reads."""
        for held in self._requests:
            self._readers.seen(held.name, held.meta.grace_s, self._turn.now)
        self._readers.sweep(self._turn.now)
        if self._turn.leading:
            for name in self._readers.abandoned(self._turn.now):
                self._requests.cancel(name, "nobody reads it any more")

    def _serve(self) -> None:
        """Hands out and fetches for every model that something happened to."""
        self._requests.start_cancels()
        stirred = self._turn.stirred
        if self._turn.leading and self._turn.connected:
            for key in stirred:
                self._requests.dispatcher.dispatch(key)
                self._fetching.refill(key)
        stirred.clear()
        self._batch_at = inf
        if self._limits.batch_window_s > 0 and self._turn.leading and self._turn.connected:
            for model in self._models:
                if self._fleet.free(model.key):
                    self._batch_at = min(self._batch_at, self._requests.dispatcher.batch_at(model.key))

    def _on_delivered(self, event: events.Delivered) -> None:
        model = self._models.get(event.model)
        if model is not None:
            model.watchdogs[event.klass].reset()
            model.demand[event.klass].delivered(event.attempt)
        if model is not None and self._turn.leading:
            self._requests.delivered(event, model)
        else:
            # A fetch from when this scheduler led, or the model was known, brought it: another one deals with it.
            # Not at once, or the broker gives it to the same fetch again.
            self._out(events.Nak(event.ack, STRAGGLER_S))

    def _on_pull(self, pull: Pull) -> None:
        """Standbys listen too, so that they can take over knowing all workers."""
        if not _is_sound(pull):
            return
        before = self._fleet.get(WorkerId(pull.worker))
        was_staying = before is not None and not before.pull.leaving
        was_known = self._models.get(ModelKey(pull.model.key)) is not None
        model = self._models.see(pull.model, self._turn.now)
        if model is None:
            return
        lost = self._fleet.pulled(pull, self._turn.now)
        if lost is not None:
            self._on_lost(lost)
        for one in pull.running or ():
            self._readers.seen(name_of(one), one.grace_s, self._turn.now)
        self._fetching.ensure(model)
        if self._turn.leading:
            self._remember(model)
            if not was_known or was_staying == pull.leaving:
                self._announce()
        self._stir(model.key)

    def _on_probe_answered(self, worker: WorkerId, alive: bool) -> None:
        lost = self._fleet.probe_answered(worker, alive=alive, now=self._turn.now)
        if lost is not None:
            self._on_lost(lost)

    def _on_cancel_wished(self, name: Name, reason: str, reply_to: str) -> None:
        if self._turn.leading and self._turn.connected:
            self._requests.cancel(name, reason[:CANCEL_REASON_MAX] or "cancelled", reply_to=reply_to)

    def _watch_from(self, now: float) -> None:
        self._fleet.watch_from(now)
        self._readers.watch_from(now)

    def _on_output_used(self, share: float) -> None:
        self._output_used = share
        self._requests.dispatcher.holds_new = share >= OUTPUT_HOLD_AT
        self._stir_all()

    def _on_lost(self, lost: Lost) -> None:
        self._requests.worker_lost(lost)
        self._stir(ModelKey(lost.worker.pull.model.key))
        if self._turn.leading:
            self._announce()

    def _on_became_leader(self, event: events.BecameLeader) -> None:
        self._turn.leading = True
        self._term = event.term
        for known in event.models:
            if is_key(known.card.key):
                self._models.see(known.card, self._turn.now - known.seen_age_s)
        for model in self._models:
            for demand in model.demand.values():
                demand.reset()
            self._fetching.ensure(model)
        self._stir_all()
        self._announce()

    def _on_lost_leadership(self) -> None:
        self._turn.leading = False
        # Before anything is given back: an open fetch of ours would get it again.
        self._fetching.stop()
        self._requests.yield_all()

    def _on_connection_changed(self, connected: bool) -> None:
        self._turn.connected = connected
        self._stir_all()
        if connected:
            self._turn.connected_since = self._turn.now
            self._watch_from(self._turn.now)
            self._requests.advance()
        self._fetching.start_anew()

    def _remember(self, model: Model) -> None:
        if model.is_worth_remembering(self._turn.now):
            self._out(events.RememberModel(model.card))

    def _announce(self) -> None:
        self._announce_at = self._turn.now + self._limits.leader_interval_s
        states = [self._state(model) for model in self._models if self._models.is_seen(model, self._turn.now)]
        used = round(self._output_used, 4)
        leader = Leader(self._scheduler, self._term, self._queue_depth, states, used)
        self._out(events.Announce(leader))

    def _state(self, model: Model) -> ModelState:
        now = self._turn.now
        return replace(
            self._fleet.state(model.card, seen_age_s=now - model.seen_at),
            waiting=model.waiting(),
            waiting_age_s=round(model.waiting_age_s(now), 3),
            taken=model.taken(),
        )

    def _stir(self, key: ModelKey) -> None:
        self._turn.stir(key)

    def _stir_all(self) -> None:
        for model in self._models:
            self._stir(model.key)

    def _out(self, *actions: Action) -> None:
        self._turn.out.extend(actions)


def _is_sound(pull: Pull) -> bool:
    """Whether a pull's names fit into subjects and its numbers make sense; a worker that sends others is not used."""
    return (
        is_key(pull.worker)
        and is_key(pull.model.key)
        and 0 <= pull.free <= pull.slots <= SLOTS_MAX
        and pull.work_seq >= 0
    )
