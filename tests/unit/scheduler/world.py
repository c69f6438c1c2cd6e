"""A core under test: fake time, short ways to say what happens, and every invariant checked after each event."""

from __future__ import annotations

from typing import TypeVar

from scheduler import events
from scheduler.core import Core
from scheduler.events import Action, Event
from scheduler.limits import Limits
from schemas.dispatch import Answer, EdgeBeat, ModelCard, Pull, Reader, Running
from schemas.ids import ModelKey, RequestId, TenantKey
from schemas.log import Entry
from schemas.output import CtlRecord, Lease
from schemas.requests import InvalidMeta, Klass, RequestMeta
from schemas.subjects import RequestSubject

TENANT = TenantKey("public")
LEASE = Lease(nonce="n", worker="w1", attempt=1, cause="first")
A = TypeVar("A")

LIMITS = Limits(
    queue_timeout_s=120,
    request_timeout_s=300,
    request_timeout_max_s=3600,
    request_bytes_max=1000,
    model_seen_s=60,
    ack_wait_s=12,
    offer_timeout_s=0.2,
    worker_suspect_s=0.75,
    worker_silent_s=3,
    edge_silent_s=5,
    leader_interval_s=0.5,
    alone_wait_s=10,
    window_lead=4,
    window_bytes_max=10_000,
    batch_window_s=0,
    batch_size_max=8,
    batch_bytes_max=2000,
)


def rid(number: int) -> RequestId:
    return RequestId(f"request{number:016}")


def ack_of(number: int, attempt: int = 1) -> str:
    return f"ack.{number}.{attempt}"


def card(model: str = "m") -> ModelCard:
    return ModelCard(model, model, "simulator", 4096, 256)


class World:
    """Drives one core. Requests are numbers; every method returns the actions of its event."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.core = Core("s1", limits)
        self.now = 1000.0
        self.work_seq: dict[str, int] = {}

    def send(self, event: Event) -> list[Action]:
        actions = self.core.handle(event, self.now)
        self.core.check()
        return actions

    def lead(self, *models: str, term: int = 1) -> list[Action]:
        """Connected for ten minutes and leading, with the consumers of `models` ready and no evidence held back."""
        actions = self.send(events.ConnectionChanged(True))
        self.now += 600
        actions += self.wait(3)
        known = [events.KnownModel(card(model), 0.0) for model in models]
        actions += self.send(events.BecameLeader(term, known))
        for model in models:
            actions += self.send(events.ConsumersReady(ModelKey(model)))
        return actions

    def wait(self, seconds: float) -> list[Action]:
        """Lets time pass, with a tick at every deadline on the way."""
        until = self.now + seconds
        actions: list[Action] = []
        while True:
            deadline = self.core.next_deadline()
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            actions += self.send(events.Tick())
        self.now = until
        return actions + self.send(events.Tick())

    def pull(
        self,
        worker: str = "w1",
        free: int = 4,
        *,
        slots: int = 8,
        work_seq: int = 0,
        steps: int = 0,
        model: str = "m",
        running: list[int] | None = None,
        leaving: bool = False,
        grace_s: float | None = None,
    ) -> list[Action]:
        listed = None
        if running is not None:
            listed = [Running(rid(number), ack_of(number), TENANT, grace_s) for number in running]
        pull = Pull(worker, card(model), slots, free, work_seq, steps, listed, leaving)
        return self.send(events.PullReceived(pull))

    def beat(self, edge: str, readers: dict[int, float | None], *, full: bool = True) -> list[Action]:
        """An edge lists who reads there: request number -> grace of its reader."""
        listed = [Reader(TENANT, rid(number), grace_s) for number, grace_s in readers.items()]
        return self.send(events.EdgeHeard(EdgeBeat(edge, listed, full)))

    def deliver(
        self,
        number: int,
        *,
        klass: Klass = "standard",
        model: str = "m",
        attempt: int = 1,
        age_s: float = 0.0,
        meta: RequestMeta | InvalidMeta | None = None,
        body: bytes = b"{}",
        stream_seq: int | None = None,
        named: bool = True,
    ) -> list[Action]:
        subject = RequestSubject(klass, ModelKey(model), TENANT, rid(number)) if named else None
        return self.send(
            events.Delivered(
                klass,
                ModelKey(model),
                subject,
                ack_of(number, attempt),
                number if stream_seq is None else stream_seq,
                attempt,
                age_s,
                meta or RequestMeta(),
                body,
            )
        )

    def answer(self, offer: events.Offer, *answers: Answer) -> list[Action]:
        """Answers every item of an offer; one answer stands for all."""
        items = offer.work.items
        return self.send(
            events.Answered(
                offer.worker, offer.work.seq, list(answers * len(items) if len(answers) == 1 else answers)
            )
        )

    def read(self, number: int, record: CtlRecord | None, seq: int = 7) -> list[Action]:
        entry = None if record is None else Entry(seq, record)
        return self.send(events.CtlRead(TENANT, rid(number), entry))

    def tell(self, number: int, *records: CtlRecord, tok_seq: int = 0) -> list[Action]:
        """The request's history comes back: its ctl records have the sequences 7, 8, …"""
        entries = [Entry(7 + index, record) for index, record in enumerate(records)]
        return self.send(events.HistoryRead(TENANT, rid(number), entries, tok_seq))

    def run(self, number: int, worker: str = "w1") -> None:
        """Delivers a request that the only worker with credit, `worker`, accepts."""
        offer = one(events.Offer, self.deliver(number))
        assert offer.worker == worker
        self.answer(offer, "accepted")


def all_of(kind: type[A], actions: list[Action]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def one(kind: type[A], actions: list[Action]) -> A:
    """The one action of that kind."""
    found = all_of(kind, actions)
    assert len(found) == 1, actions
    return found[0]


def offered(actions: list[Action]) -> list[tuple[str, list[int]]]:
    """(worker, request numbers) of each offer."""
    return [
        (offer.worker, [int(item.rid.removeprefix("request")) for item in offer.work.items])
        for offer in all_of(events.Offer, actions)
    ]
