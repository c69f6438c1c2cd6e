"""Known flaws of designs like this one, each re-introduced in one place, to prove that the simulation finds them.

Each is a context manager: inside it the system, or its broker, has the flaw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from typing import Any

from chaos.broker import consumer as broker_consumer
from edge import generation
from infra import jetstream
from scheduler import fetching, fleet, window
from scheduler.fleet import Fleet
from scheduler.requests import Requests
from schemas import streams, subjects
from schemas.log import Entry
from schemas.output import End
from workers import service
from workers.attempt import Attempt
from workers.core import WorkerCore
from workers.events import Ack, Action, Progress, Publish, Stored
from workers.service import WorkerService


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of objects, replaced for a while."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


@contextmanager
def appends_without_an_answer() -> Iterator[None]:
    """F1, F3: tokens are published and forgotten, nobody waits for their PubAcks."""
    publish = WorkerService._publish

    def fire_and_forget(self: WorkerService, action: Publish) -> None:
        if action.kind != "append":
            publish(self, action)
            return
        headers = jetstream.fence_headers(action.expect, action.fence)
        self._bus.publish(action.subject, action.body, headers=headers)
        self._loop.call_soon(self._feed, Stored(action.key, action.op, 0))

    with replaced((WorkerService, "_publish", fire_and_forget)):
        yield


@contextmanager
def ack_before_the_end_is_stored() -> Iterator[None]:
    """F2: a worker settles the delivery as soon as it has sent its END."""
    advance = Attempt._advance

    def hasty(self: Attempt, now: float) -> list[Action]:
        actions = advance(self, now)
        ends = any(isinstance(action, Publish) and action.kind == "end" for action in actions)
        return [*actions, Ack(self.item.ack)] if ends else actions

    with replaced((Attempt, "_advance", hasty)):
        yield


@contextmanager
def ack_when_fenced() -> Iterator[None]:
    """F2: a worker that lost its request to another one still settles the delivery."""
    settle = Attempt._settle

    def settles(self: Attempt, outcome: Any, *settling: Action, **how: bool) -> list[Action]:
        if outcome == "fenced":
            settling = (Ack(self.item.ack),)
        return settle(self, outcome, *settling, **how)

    with replaced((Attempt, "_settle", settles)):
        yield


@contextmanager
def logs_expire_under_their_writers() -> Iterator[None]:
    """F4: output is kept for a shorter time than a request may take."""
    output_stream = streams.output_stream

    def short(**named: Any) -> streams.StreamSpec:
        return output_stream(**(named | {"retention_s": 1.0}))

    with replaced((streams, "output_stream", short)):
        yield


@contextmanager
def sequences_begin_anew() -> Iterator[None]:
    """F5: a stream that was lost is made again without a first sequence from the clock."""
    output_stream = streams.output_stream

    def from_one(**named: Any) -> streams.StreamSpec:
        return output_stream(**(named | {"first_seq": 1}))

    with replaced((streams, "output_stream", from_one)):
        yield


@contextmanager
def duplicates_are_the_brokers_business() -> Iterator[None]:
    """F6: nobody looks for an END, because the duplicate window is trusted to keep finished requests away."""
    ctl_read = Requests.ctl_read

    def blind(self: Requests, name: Any, entry: Entry | None) -> None:
        ctl_read(self, name, None if entry is not None and isinstance(entry.record, End) else entry)

    def lease_on_anything(self: Attempt, seq: int, record: Any, now: float) -> list[Action]:
        self._outbox.read_done(seq, now)
        return self._lease(seq, "redelivered", now)

    with replaced((Requests, "ctl_read", blind), (Attempt, "_on_ctl", lease_on_anything)):
        yield


@contextmanager
def deliveries_are_limited() -> Iterator[None]:
    """F7: the broker gives up a message after three deliveries, as a server with `max_deliver` does: it stays."""
    come_back = broker_consumer.Consumer.come_back

    def three_times(self: broker_consumer.Consumer, seq: int, now: float) -> None:
        if self.delivered.get(seq, 1) < 3:
            come_back(self, seq, now)
        else:
            self.unsettled[seq].deadline = inf

    with replaced((broker_consumer.Consumer, "come_back", three_times)):
        yield


@contextmanager
def silence_is_death() -> Iterator[None]:
    """F8: a worker not heard of for 0.3 s is dead, also right after a reconnect."""
    init = Fleet.__init__

    def impatient(self: Fleet, *, suspect_s: float, silent_s: float) -> None:
        init(self, suspect_s=suspect_s, silent_s=0.3)
        self._watching_since = -inf

    with replaced(
        (fleet, "EVIDENCE_S", 0.0), (Fleet, "__init__", impatient), (Fleet, "watch_from", lambda *_: None)
    ):
        yield


@contextmanager
def progress_by_the_clock() -> Iterator[None]:
    """F9: "still working" is said for as long as the process lives, whatever its engine does."""

    def sign(self: Attempt, now: float) -> list[Action]:
        self._holding.sign(now)
        return [Progress(self.item.ack)]

    with replaced((Attempt, "_show_progress", sign), (WorkerCore, "_is_hung", lambda *_: False)):
        yield


@contextmanager
def leases_without_a_condition() -> Iterator[None]:
    """F10: whoever gets a batch runs it, as from a second queue: nothing is read, no lease expects anything."""
    with replaced((service, "expect_headers", lambda *_: b"")):
        yield


@contextmanager
def tokens_without_a_fence() -> Iterator[None]:
    """A worker that was replaced can still append."""
    with replaced((service, "fence_headers", lambda *_: b"")):
        yield


@contextmanager
def long_fetches() -> Iterator[None]:
    """F11: a scheduler's fetches stay open for a minute, so that a stopped one swallows what they bring."""
    with replaced((fetching, "FETCH_EXPIRES_S", 60.0), (window, "FETCH_EXPIRES_S", 60.0)):
        yield


@contextmanager
def client_text_in_subjects() -> Iterator[None]:
    """F12: a request is called what its client calls it."""
    with replaced((generation, "request_id", lambda _: "x" * 5000), (subjects, "_rid", lambda token: token)):
        yield
