"""Random worlds: every invariant after each event, and nothing settled, offered or fetched against the rules."""

from __future__ import annotations

import dataclasses
import random

import pytest
from msgspec.structs import replace

from scheduler import events
from schemas.dispatch import Answer, EdgeBeat, Reader
from schemas.ids import ModelKey, WorkerId
from schemas.log import Entry
from schemas.output import CtlRecord, End, Failed, Handoff
from schemas.requests import CLASSES, InvalidMeta, RequestMeta
from tests.unit.scheduler.world import LEASE, LIMITS, TENANT, World, all_of, rid

STEPS = 3000
ANSWERS: tuple[Answer, ...] = ("accepted", "accepted", "accepted", "full", "draining", "mine", "done")


class Chaos:
    """A broker and workers that do anything they might do, in any order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        limits = dataclasses.replace(LIMITS, batch_window_s=self.random.choice([0.0, 0.02]))
        self.world = World(limits)
        self.world.lead("m", "n")
        self.leading = True
        self.connected = True
        self.offers: list[events.Offer] = []
        self.reads: list[int] = []
        self.closes: list[int] = []
        self.cancels: list[int] = []
        self.histories: list[int] = []
        self.kinds: dict[str, int] = {}
        self.ended: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.free: dict[str, tuple[int, int]] = {}

    def step(self) -> None:
        kinds = (
            self.deliver,
            self.deliver,
            self.pull,
            self.pull,
            self.answer,
            self.answer,
            self.log,
            self.rest,
        )
        self.see(self.random.choice(kinds)())
        self.see(self.world.wait(self.random.choice([0, 0, 0.001, 0.01, 0.1])))

    def deliver(self) -> list[events.Action]:
        number = self.random.randrange(40)
        attempt = self.attempts[number] = self.attempts.get(number, 0) + 1
        return self.world.deliver(
            number,
            klass=CLASSES[number % 3],
            model="mn"[number % 2],
            attempt=attempt % 8 + 1 if attempt > 1 else 1,
            age_s=self.random.choice([0, 0, 0, 1, 119, 150]),
            meta=InvalidMeta("bad")
            if number == 39
            else RequestMeta(max_tokens=number * 10, grace_s=self.random.choice([None, 0.0, 3.0])),
            body=b"x" * self.random.choice([2, 2, 2, 900, 900, 1001]),
        )

    def pull(self) -> list[events.Action]:
        name = self.random.choice(["w1", "w2", "w3"])
        seq = max((offer.work.seq for offer in self.offers if offer.worker == name), default=0)
        running = self.random.sample(range(40), 3) if self.random.random() < 0.3 else None
        self.free[name] = (self.random.randrange(9), max(0, seq - self.random.randrange(2)))
        free, work_seq = self.free[name]
        return self.world.pull(
            name,
            free,
            work_seq=work_seq,
            model="m" if name != "w3" else "n",
            steps=int(self.random.random() > 0.02),
            running=running,
            leaving=self.random.random() < 0.03,
            grace_s=self.random.choice([None, 0.0, 3.0]),
        )

    def answer(self) -> list[events.Action]:
        if not self.offers:
            return []
        offer = self.random.choice(self.offers)
        if self.random.random() < 0.1:
            return self.world.send(events.OfferFailed(offer.worker, offer.work.seq))
        return self.world.answer(offer, *(self.random.choice(ANSWERS) for _ in offer.work.items))

    def log(self) -> list[events.Action]:
        """A read or a close comes back, in any order, perhaps twice."""
        if self.closes and self.random.random() < 0.5:
            number = self.random.choice(self.closes)
            self.ended.add(number)
            return self.world.send(events.EndWritten(TENANT, rid(number)))
        if self.cancels and self.random.random() < 0.5:
            return self.end_cancel(self.cancels.pop(self.random.randrange(len(self.cancels))))
        if self.histories and self.random.random() < 0.5:
            return self.tell_history(self.histories.pop())
        if not self.reads:
            return []
        number = self.random.choice(self.reads)
        again = replace(LEASE, cause="worker_dead")
        record = self.random.choice(
            [None, LEASE, again, again, Failed("n", "e"), Handoff("n", 1), End(status="ok")]
        )
        if isinstance(record, End):
            self.ended.add(number)
        return self.world.read(number, record)

    def tell_history(self, number: int) -> list[events.Action]:
        records: list[CtlRecord] = [replace(LEASE, cause="worker_dead"), Failed("n", "e"), Handoff("n", 1)]
        entries = [Entry(seq, self.random.choice(records)) for seq in range(5, 5 + self.random.randrange(4))]
        return self.world.send(
            events.HistoryRead(TENANT, rid(number), entries, self.random.choice([0, 6, 9]))
        )

    def end_cancel(self, number: int) -> list[events.Action]:
        """A call for a cancel is over."""
        actions = []
        if self.random.random() < 0.7:
            self.ended.add(number)
            actions += self.world.send(events.EndWritten(TENANT, rid(number)))
        elif self.random.random() < 0.5:
            actions += self.world.send(events.CallFailed(TENANT, rid(number)))
        return actions + self.world.send(events.CancelOver(TENANT, rid(number)))

    def rest(self) -> list[events.Action]:
        number = self.random.randrange(40)
        if not self.leading or self.random.random() < 0.05:
            self.leading = not self.leading
            new: events.Event = events.BecameLeader(2, []) if self.leading else events.LostLeadership()
            actions = self.world.send(new)
            for model in ("m", "n"):
                actions += self.world.send(events.ConsumersReady(ModelKey(model)))
            return actions
        if not self.connected or self.random.random() < 0.05:
            self.connected = not self.connected
            return self.world.send(events.ConnectionChanged(self.connected))
        model = ModelKey("mn"[number % 2])
        worker = WorkerId(self.random.choice(["w1", "w2", "w3"]))
        kinds: list[events.Event] = [
            events.CancelHinted(TENANT, rid(number)),
            events.CancelWished(TENANT, rid(number), "", ""),
            events.EdgeHeard(self.beat()),
            events.EdgeHeard(self.beat()),
            events.CallFailed(TENANT, rid(number)),
            events.FetchEnded(CLASSES[number % 3], model, number % 5),
            events.ProbeAnswered(worker, number % 2 == 0),
            events.ConsumersReady(model, self.random.choice([0.0, 60.0])),
            events.ConsumerGone(model),
            events.ConsumerSeen(CLASSES[number % 3], model, self.random.choice([None, 0, 3, 3, 3])),
            events.OutputUsed(self.random.choice([0.1, 0.1, 0.5, 0.95])),
            events.CloseRefused(TENANT, rid(number)),
        ]
        return self.world.send(self.random.choice(kinds))

    def beat(self) -> EdgeBeat:
        numbers = self.random.sample(range(40), self.random.randrange(20))
        readers = [Reader(TENANT, rid(number), self.random.choice([None, 0.0, 3.0])) for number in numbers]
        return EdgeBeat(self.random.choice(["e1", "e2", "e3"]), readers, self.random.random() < 0.7)

    def see(self, actions: list[events.Action]) -> None:
        for action in actions:
            kind = type(action).__name__
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.offers = (self.offers + all_of(events.Offer, actions))[-4:]
        self.reads = (self.reads + [_number(read.rid) for read in all_of(events.ReadCtl, actions)])[-30:]
        self.closes = (self.closes + [_number(close.rid) for close in all_of(events.Close, actions)])[-30:]
        self.cancels += [_number(call.rid) for call in all_of(events.Cancel, actions)]
        self.cancels += [_number(call.rid) for call in all_of(events.DeleteQueued, actions)]
        self.histories += [_number(read.rid) for read in all_of(events.ReadHistory, actions)]
        self.histories = self.histories[-30:]
        for ack in all_of(events.Ack, actions):
            assert int(ack.ack.split(".")[1]) in self.ended, "nothing is settled without an END"
        for offer in all_of(events.Offer, actions):
            assert self.leading
            assert 1 <= len(offer.work.items) <= LIMITS.batch_size_max
            assert len({item.rid for item in offer.work.items}) == len(offer.work.items)
        assert self.leading or not all_of(events.Fetch, actions) + all_of(events.Announce, actions)
        assert self.world.core.held <= 40


@pytest.mark.parametrize("seed", range(6))
def test_invariants_hold_in_random_worlds(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(STEPS):
        chaos.step()
    for kind in ("Offer", "ReadHistory", "Close", "Cancel", "DeleteQueued", "OutputFull", "EnsureConsumers"):
        assert chaos.kinds.get(kind, 0) > 3, f"a world without {kind} tests nothing"
    chaos.world.send(events.ConnectionChanged(True))
    chaos.world.send(events.LostLeadership())
    chaos.world.wait(1)
    for number in range(40):
        chaos.world.send(events.EndWritten(TENANT, rid(number)))
    assert chaos.world.core.held == 0, "nothing is left when all that was under way is over"


def _number(request: str) -> int:
    return int(request.removeprefix("request"))
