"""A request that brings its engine down, among healthy ones: in simulated time, with logs, deaths and redeliveries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from scheduler import events
from schemas.dispatch import Pull, Running, WorkItem
from schemas.log import Entry, strikes
from schemas.output import CtlRecord, End, Failed, Lease, Tok
from schemas.requests import RequestMeta
from tests.unit.scheduler.world import LEASE, LIMITS, TENANT, World, ack_of, card, offered, one, rid

STRIKES_MAX = 3
STEP_S = 0.1
FIRST_TOKEN_S = 0.3
TOKENS = 30

KILLER = 0


@dataclass
class Process:
    """A worker: what it runs, and since when."""

    name: str
    items: dict[int, tuple[WorkItem, float]] = field(default_factory=dict)
    work_seq: int = 0
    alive_at: float = 0.0


class Shop:
    """A core, workers that lease and make tokens, and the broker that keeps the logs. Request 0 kills whoever runs it,
    before anybody's first token there."""

    def __init__(self, workers: int, slots: int = 16, kills_at_s: float = 0.2) -> None:
        self.world = World(replace(LIMITS, batch_size_max=16, batch_bytes_max=10_000))
        self.slots = slots
        self.kills_at_s = kills_at_s
        self.generation = 0
        self.logs: dict[int, list[Entry]] = {}
        self.attempts: dict[int, int] = {}
        self.tokens: dict[int, int] = {}
        self.ended: dict[int, str] = {}
        self.most_strikes: dict[int, int] = {}
        self.deaths = 0
        self.seq = 100
        self.redeliver: list[tuple[float, int]] = []
        self.world.lead("m")
        self.workers = [self.process() for _ in range(workers)]
        self.pull()

    def process(self) -> Process:
        self.generation += 1
        return Process(f"w{self.generation}", alive_at=self.world.now)

    def submit(self, *numbers: int) -> None:
        for number in numbers:
            self.logs[number] = []
            self.deliver(number)

    def deliver(self, number: int) -> None:
        attempt = self.attempts[number] = self.attempts.get(number, 0) + 1
        self.do(self.world.deliver(number, attempt=attempt, meta=RequestMeta(max_tokens=TOKENS)))

    def do(self, actions: list[events.Action]) -> None:
        for action in actions:
            match action:
                case events.Offer():
                    self.offer(action)
                case events.ReadCtl():
                    ctl = [entry for entry in self.logs[_number(action.rid)] if not _is_tok(entry)]
                    self.answer(events.CtlRead(TENANT, action.rid, ctl[-1] if ctl else None))
                case events.ReadHistory():
                    log = self.logs[_number(action.rid)]
                    ctl = [entry for entry in log if not _is_tok(entry)]
                    tok_seq = max((entry.seq for entry in log if _is_tok(entry)), default=0)
                    self.answer(events.HistoryRead(TENANT, action.rid, ctl, tok_seq))
                case events.Nak(ack, delay_s):
                    number = int(ack.split(".")[1])
                    if number not in self.ended:
                        self.redeliver.append((self.world.now + delay_s, number))

    def answer(self, event: events.Event) -> None:
        self.do(self.world.send(event))

    def offer(self, offer: events.Offer) -> None:
        worker = next((worker for worker in self.workers if worker.name == offer.worker), None)
        if worker is None:
            return
        worker.work_seq = offer.work.seq
        for item in offer.work.items:
            self.lease(worker, item)
        self.answer(events.Answered(offer.worker, offer.work.seq, ["accepted"] * len(offer.work.items)))

    def lease(self, worker: Process, item: WorkItem) -> None:
        number = _number(item.rid)
        self.append(number, Lease(worker.name, worker.name, item.attempt, item.cause))
        count = strikes(self.logs[number])
        self.most_strikes[number] = max(count, self.most_strikes.get(number, 0))
        if count >= STRIKES_MAX:
            self.ended[number] = "poison"
        else:
            worker.items[number] = (item, self.world.now)

    def append(self, number: int, record: CtlRecord | Tok) -> None:
        self.seq += 1
        self.logs[number].append(Entry(self.seq, record))

    def step(self) -> None:
        """One tenth of a second of everybody's life."""
        now = self.world.now
        for index, worker in enumerate(self.workers):
            if now < worker.alive_at:
                continue
            killer = worker.items.get(KILLER)
            if killer is not None and now - killer[1] >= self.kills_at_s:
                self.deaths += 1
                self.workers[index] = self.process()
                self.workers[index].alive_at = now + 1.0
                continue
            for number, (_, since) in list(worker.items.items()):
                if number != KILLER and now - since >= FIRST_TOKEN_S:
                    self.append(number, Tok(lease=1, off=0, ids=[1]))
                    self.tokens[number] = self.tokens.get(number, 0) + 1
                    if self.tokens[number] == TOKENS:
                        self.ended[number] = "ok"
                        del worker.items[number]
        self.pull()
        self.do(self.world.wait(STEP_S))
        due = [number for at, number in self.redeliver if at <= self.world.now]
        self.redeliver = [(at, number) for at, number in self.redeliver if at > self.world.now]
        for number in due:
            self.deliver(number)

    def pull(self) -> None:
        for worker in self.workers:
            if self.world.now >= worker.alive_at:
                running = [
                    Running(item.rid, item.ack, started=self.world.now - since >= FIRST_TOKEN_S + STEP_S)
                    for item, since in worker.items.values()
                ]
                free = self.slots - len(running)
                pull = Pull(worker.name, card(), self.slots, free, worker.work_seq, 0, running)
                self.do(self.world.send(events.PullReceived(pull)))

    def run(self, numbers: list[int], within_s: float) -> float:
        """Until these have ended; returns how long it took."""
        began = self.world.now
        while not all(number in self.ended for number in numbers):
            assert self.world.now < began + within_s, (
                f"still there: {sorted(set(numbers) - self.ended.keys())}"
            )
            self.step()
        return self.world.now - began


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kills_at_s", [0.0, 0.2, 0.6])
def test_a_killer_is_poisoned_and_its_mates_live(workers: int, kills_at_s: float) -> None:
    shop = Shop(workers, kills_at_s=kills_at_s)
    mates = list(range(1, 9))
    shop.submit(*mates, KILLER)
    shop.run([*mates, KILLER], within_s=120)
    assert shop.ended == {KILLER: "poison"} | dict.fromkeys(mates, "ok")
    assert shop.deaths <= 1 + STRIKES_MAX
    assert max(shop.most_strikes[number] for number in mates) < STRIKES_MAX


def test_a_killer_among_long_running_ones_on_the_only_worker() -> None:
    """They had tokens before it came: whatever it does, a token sheds what its death gives them."""
    shop = Shop(1)
    mates = list(range(1, 9))
    shop.submit(*mates)
    for _ in range(10):
        shop.step()
    shop.submit(KILLER)
    shop.run([*mates, KILLER], within_s=120)
    assert shop.ended[KILLER] == "poison"
    assert max(shop.most_strikes[number] for number in mates) < STRIKES_MAX


def test_others_are_served_while_a_suspect_waits_for_a_worker_of_its_own(world: World) -> None:
    world.pull("w1", free=7, running=[9])
    suspect(world, 1)
    assert not offered(world.deliver(2)), "its worker is kept"
    actions = world.wait(0)
    for _ in range(99):
        actions += world.pull("w1", free=7, running=[9]) + world.wait(0.1)
    assert not offered(actions)
    actions = world.pull("w1", free=7, running=[9]) + world.wait(0.2)
    assert offered(actions) == [("w1", [1]), ("w1", [2])], "after 10 s it goes to any, and the others, too"


def test_a_suspect_takes_an_empty_worker_and_has_it_for_itself(world: World) -> None:
    world.pull("w1", free=8, running=[])
    world.pull("w2", free=7, running=[9])
    offer = one(events.Offer, suspect(world, 1))
    assert offer.worker == "w1"
    world.answer(offer, "accepted")
    assert offered(world.deliver(2)) == [("w2", [2])], "the fuller worker, because the other one is kept"
    started = Running(rid(1), ack_of(1, 2), started=False)
    assert not offered(pull_of(world, "w1", started, free=7))
    world.pull("w2", free=0, work_seq=9)
    assert not offered(world.deliver(3))
    assert offered(pull_of(world, "w1", Running(rid(1), ack_of(1, 2)), free=7)) == [("w1", [3])]


def test_a_suspect_that_starts_slowly_shares_its_worker_in_time(world: World) -> None:
    world.pull("w1", free=8, running=[])
    world.answer(one(events.Offer, suspect(world, 1)), "accepted")
    slow = Running(rid(1), ack_of(1, 2), started=False)
    world.deliver(2)
    actions = [action for _ in range(99) for action in pull_of(world, "w1", slow, free=7) + world.wait(0.1)]
    assert not offered(actions)
    assert offered(pull_of(world, "w1", slow, free=7) + world.wait(0.2)) == [("w1", [2])]


def test_two_suspects_never_share_a_worker_before_their_first_tokens(world: World) -> None:
    world.pull("w1", free=7, running=[9])
    suspect(world, 1)
    suspect(world, 2)
    actions: list[events.Action] = []
    while not offered(actions):
        actions = world.pull("w1", free=7, running=[9]) + world.wait(0.1)
    assert offered(actions) == [("w1", [1])]
    world.answer(one(events.Offer, actions), "accepted")
    slow = Running(rid(1), ack_of(1, 2), started=False)
    for _ in range(100):
        assert not offered(pull_of(world, "w1", slow, free=6) + world.wait(0.1))
    assert offered(pull_of(world, "w1", Running(rid(1), ack_of(1, 2)), free=6)) == [("w1", [2])]


def test_half_of_the_workers_stay_for_the_others(world: World) -> None:
    for name in ("w1", "w2", "w3", "w4"):
        world.pull(name, free=8, running=[])
    assert [offered(suspect(world, number)) for number in (1, 2, 3)] == [[("w1", [1])], [("w2", [2])], []]
    assert offered(world.deliver(9)) == [("w3", [9])]


def test_a_suspect_that_is_refused_keeps_its_patience(world: World) -> None:
    world.pull("w1", free=8, running=[])
    world.answer(one(events.Offer, suspect(world, 1)), "full")
    actions = world.pull("w1", free=8, work_seq=1, running=[])
    assert offered(actions) == [("w1", [1])]


def test_an_expired_or_cancelled_suspect_gives_its_worker_free(world: World) -> None:
    world.pull("w1", free=7, running=[9])
    suspect(world, 1)
    assert not offered(world.deliver(2))
    assert offered(world.send(events.CancelWished(TENANT, rid(1), "", ""))) == [("w1", [2])]


@pytest.mark.parametrize("cause", ["handoff", "redelivered", "reconnect"])
def test_what_a_restart_does_is_no_strike(world: World, cause: str) -> None:
    world.pull("w1", free=1, running=[9])
    world.deliver(1, attempt=2)
    again = Lease("n", "w1", 2, cause)  # type: ignore[arg-type]
    world.read(1, again)
    assert offered(world.tell(1, LEASE, again)) == [("w1", [1])]


def test_a_token_after_a_strike_sheds_it(world: World) -> None:
    world.pull("w1", free=1, running=[9])
    world.deliver(1, attempt=3)
    again = Lease("n", "w2", 2, "worker_dead")
    world.read(1, again)
    assert offered(world.tell(1, LEASE, again, tok_seq=9)) == [("w1", [1])]


def test_an_end_in_the_history_settles(world: World) -> None:
    world.deliver(1, attempt=2)
    world.read(1, Failed("n", "boom"))
    assert one(events.Ack, world.tell(1, LEASE, Failed("n", "boom"), End(status="error"))).ack == ack_of(1, 2)


def suspect(world: World, number: int) -> list[events.Action]:
    """A request comes back whose engine raised."""
    world.deliver(number, attempt=2)
    world.read(number, Failed("n", "boom"))
    return world.tell(number, LEASE, Failed("n", "boom"))


def pull_of(world: World, worker: str, *running: Running, free: int) -> list[events.Action]:
    pull = Pull(worker, card(), slots=8, free=free, work_seq=9, steps=0, running=list(running))
    return world.send(events.PullReceived(pull))


def _is_tok(entry: Entry) -> bool:
    return isinstance(entry.record, Tok)


def _number(request: str) -> int:
    return int(request.removeprefix("request"))
