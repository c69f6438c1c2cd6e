"""One request and all that touch it: the two streams, two workers with their real cores, readers with the real relay.

Time is a number that somebody moves. Whatever crosses the network waits in `OneRequest.network` until somebody
processes or loses it. Every record is checked when it is stored, every other promise by `check`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from math import inf

from edge.relay import Broken, Ended, Output, Relay, Replay, Tokens
from schemas.dispatch import Work
from schemas.log import Entry, fold
from schemas.output import Cause, CtlRecord, End, Failed, Handoff, Lease, Tok
from tests.unit.workers.world import (
    CAPABILITIES,
    CARD,
    LIMITS,
    Log,
    ReferenceEngine,
    item,
    record,
)
from workers.core import WorkerCore
from workers.engines.simulator import reference_text
from workers.events import (
    Ack,
    Action,
    ConnectionChanged,
    CtlRead,
    EngineHung,
    EngineProgress,
    Event,
    LogRead,
    Nak,
    Offered,
    Progress,
    Publish,
    ReadCtl,
    ReadFailed,
    ReadLog,
    Refused,
    Reply,
    StartEngine,
    StopEngine,
    Stored,
    Tick,
)

TOKENS = 8
BODY = b'{"prompt": "water", "max_tokens": %d}' % TOKENS
TEXT = reference_text("water", 0, TOKENS)

PATIENT = replace(LIMITS, strikes_max=1_000, attempts_max=1_000)
"""Poison has its own tests; here a request may meet any number of faults."""

BEGIN_S = 100.0
ROUNDS_MAX = 2_000


@dataclass(eq=False)
class Worker:
    """A worker's process. One that is killed is replaced by another one: answers to the old one go nowhere."""

    name: str
    core: WorkerCore
    engine: ReferenceEngine = field(default_factory=ReferenceEngine)
    is_connected: bool = True
    is_alive: bool = True


@dataclass(eq=False)
class Reader:
    """A client at an edge."""

    relay: Relay
    hears: bool = True
    replay_from: int = 0
    shown: str = ""
    ended: Ended | None = None


@dataclass(frozen=True)
class CancelWish:
    """END(cancelled), if the last ctl record is still the one at `expect`."""

    expect: int


@dataclass(frozen=True)
class Call:
    """Something a worker or, if it is nobody's, a canceller wants of the broker."""

    worker: Worker | None
    action: Publish | ReadCtl | ReadLog | CancelWish


class OutputStream(Log):
    """OUTPUT: also unfenced publishes are stored, as the broker would. All is checked with the record's storing."""

    def store(self, publish: Publish) -> Stored | Refused:
        if publish.fence:
            return super().store(publish)
        self.append(record(publish))
        return Stored(publish.key, publish.op, self.entries[-1].seq)

    def append(self, stored: Lease | Failed | Handoff | End | Tok) -> None:
        nonces = [entry.record.nonce for entry in self.entries if isinstance(entry.record, Lease)]
        assert not isinstance(stored, Lease) or stored.nonce not in nonces, "I5: nonces are unique"
        super().append(stored)
        text = "".join(fold(self.entries).texts)
        assert TEXT.startswith(text), "I8: the text is that of an undisturbed run"
        if isinstance(stored, End) and stored.sha256:
            assert stored.sha256 == hashlib.sha256(text.encode()).hexdigest(), "I4: END.sha256"
        if isinstance(stored, End) and stored.status == "ok":
            assert text == TEXT


class OneRequest:
    """Everything. A worker is named by its place, something on the network too, counted round."""

    def __init__(self, worker: type[WorkerCore] = WorkerCore, relay: type[Relay] = Relay) -> None:
        self.now = BEGIN_S
        self.output = OutputStream()
        self.network: list[Call] = []
        self.readers: list[Reader] = []
        self._worker_class, self._relay_class = worker, relay
        self._born = 0
        self.workers = [self._new_worker(), self._new_worker()]
        self.is_queued, self.is_gone = True, False
        self.deliveries = 0
        self._visible_at = self.now
        self.join()

    # What the world does.

    def offer(self, place: int, *, is_stale: bool = False) -> None:
        """The scheduler has a delivery and offers it to a worker; or another one, which has held the last delivery for
        too long, does. An END it finds settles the request."""
        worker = self.workers[place]
        if not is_stale:
            self.is_queued = False
            self.deliveries += 1
            self._visible_at = self.now + PATIENT.ack_wait_s
        last = self.output.last_ctl
        if self.deliveries > 1 and self.output.end is not None:
            self._ack()
        elif worker.is_connected:
            ctl_seq = 0 if self.deliveries == 1 or last is None else last.seq
            cause = "first" if self.deliveries == 1 else self._cause(last)
            age_s = self.now - BEGIN_S
            offered = item(attempt=self.deliveries, ctl_seq=ctl_seq, cause=cause, age_s=age_s, body=BODY)
            self._feed(worker, Offered(Work(self.deliveries, [offered]), "reply"))

    def nak(self) -> None:
        """A scheduler that does not hold the delivery any more gives it back; the broker honours that."""
        self._nak(0.0)

    def process(self, place: int, *, is_answered: bool = True, is_done_twice: bool = False) -> None:
        """Something on the network arrives; the answer may be lost on the way back."""
        call = self.network.pop(place % len(self.network))
        for _ in range(1 + is_done_twice):
            self._process(call, is_answered)

    def lose(self, place: int) -> None:
        """Something on the network never arrives. A read that is not answered has failed for who asked."""
        self._fail(self.network.pop(place % len(self.network)))

    def step(self, place: int) -> None:
        """An engine makes a step."""
        worker = self.workers[place]
        events = worker.engine.step()
        if events:
            self._feed(worker, EngineProgress(int(self.now * 1e3), self.now))
        for event in events:
            self._feed(worker, event)

    def kill(self, place: int) -> None:
        """A worker dies and another one is started in its place."""
        self.workers[place].is_alive = False
        self.workers[place] = self._new_worker()

    def tell(self, place: int, event: Event) -> None:
        """Something happens to a worker."""
        self._feed(self.workers[place], event)

    def wish_cancel(self) -> None:
        """A canceller reads the last ctl record and sends its END."""
        last = self.output.last_ctl
        self.network.append(Call(None, CancelWish(0 if last is None else last.seq)))

    def join(self) -> None:
        """A client comes and reads from the start."""
        self.readers.append(Reader(self._relay_class(self.now)))

    def put(self, reader: Reader, outputs: list[Output]) -> None:
        """A relay's outputs reach its client."""
        for output in outputs:
            assert reader.ended is None, "I6: nothing follows the end"
            match output:
                case Tokens():
                    reader.shown += "".join([delta.text for delta in output.deltas])
                case Ended():
                    reader.ended = output
                case Replay():
                    reader.replay_from = output.start_seq
                case Broken():
                    raise AssertionError(f"I6: {output.message}, though nothing was lost")
        reader.relay.check()

    def replay(self, reader: Reader, lag: int) -> None:
        """A replay is answered, by a replica that may lack the newest records."""
        start, reader.replay_from = reader.replay_from, 0
        entries = self.output.entries
        for entry in entries[: max(0, len(entries) - lag)]:
            if entry.seq >= start:
                self.put(reader, reader.relay.stored(entry))
        self.put(reader, reader.relay.replay_done(self.now))

    def advance(self, seconds: float) -> None:
        """Time passes, with everything that is due on the way."""
        until = self.now + seconds
        while (due := self._due()) <= until:
            self.now = max(self.now, due)
            self._tick()
        self.now = until

    def check(self) -> None:
        """What holds at any time."""
        end = self.output.end
        assert not self.is_gone or end is not None, "I1/I2: the message is gone and there is no END"
        assert end is None or end.status != "error", f"I10: {end}"
        final = "".join(fold(self.output.entries).texts)
        for reader in self.readers:
            assert final.startswith(reader.shown), "I6: what was shown is a prefix of the text"
            assert reader.ended is None or (reader.shown, reader.ended.end) == (final, end)

    def heal(self) -> None:
        """No more faults: everybody is connected, nothing is lost. Returns when all is over."""
        for place, worker in enumerate(self.workers):
            if not worker.is_connected:
                self.connect(place, connected=True)
        for reader in self.readers:
            reader.hears = True
            self.put(reader, reader.relay.missed())
            self.put(reader, reader.relay.resume())
        for _ in range(ROUNDS_MAX):
            if self.is_gone and all(reader.ended for reader in self.readers):
                return
            self.go_on()
        raise AssertionError("liveness: the request never came to its end")

    def go_on(self) -> None:
        """A tenth of a second in which nothing goes wrong."""
        self.advance(0.1)
        if self.is_queued:
            self.offer(self.deliveries % len(self.workers))
        while self.network:
            self.process(0)
        for place, worker in enumerate(self.workers):
            if worker.core.drained:
                self.kill(place)
            self.step(place)
        for reader in self.readers:
            if reader.replay_from:
                self.replay(reader, 0)

    def connect(self, place: int, *, connected: bool) -> None:
        """A worker's connection is lost or back."""
        self.workers[place].is_connected = connected
        self.tell(place, ConnectionChanged(connected))

    # What comes of it.

    def _new_worker(self) -> Worker:
        self._born += 1
        name = f"w{self._born}"
        worker = Worker(name, self._worker_class(name, CARD, CAPABILITIES, PATIENT))
        worker.core.handle(EngineProgress(0, self.now), self.now)
        return worker

    def _feed(self, worker: Worker, event: Event) -> None:
        for action in worker.core.handle(event, self.now):
            self._perform(worker, action)
        worker.core.check()

    def _perform(self, worker: Worker, action: Action) -> None:
        match action:
            case Publish() | ReadCtl() | ReadLog():
                self.network.append(Call(worker, action))
            case StartEngine():
                worker.engine.submit(action.request)
            case StopEngine():
                worker.engine.runs.pop(action.key, None)
            case Ack():
                self._ack()
            case Nak():
                self._nak(action.delay_s)
            case Progress() if worker.is_connected and not self.is_queued:
                self._visible_at = self.now + PATIENT.ack_wait_s
            case Reply() if action.answers[0] in ("full", "draining"):
                self._nak(0.2)
            case EngineHung():
                self.kill(self.workers.index(worker))

    def _process(self, call: Call, is_answered: bool) -> None:
        worker, action = call.worker, call.action
        answer: Event
        match action:
            case CancelWish():
                last = self.output.last_ctl
                if action.expect == (0 if last is None else last.seq) and self.output.end is None:
                    self._store(End(status="cancelled", reason="cancelled"))
                return
            case Publish():
                size = len(self.output.entries)
                answer = self.output.store(action)
                self._publish_live(self.output.entries[size:])
            case ReadCtl():
                last = self.output.last_ctl
                if last is None:
                    answer = CtlRead(action.key, action.op, 0, None)
                else:
                    assert not isinstance(last.record, Tok)
                    answer = CtlRead(action.key, action.op, last.seq, last.record)
            case ReadLog():
                entries = [entry for entry in self.output.entries if entry.seq <= action.upto_seq]
                answer = LogRead(action.key, action.op, entries)
        assert worker is not None
        if not is_answered or not worker.is_connected:
            self._fail(call)
        elif worker.is_alive:
            self._feed(worker, answer)

    def _fail(self, call: Call) -> None:
        worker, action = call.worker, call.action
        if worker is not None and worker.is_alive and isinstance(action, ReadCtl | ReadLog):
            self._feed(worker, ReadFailed(action.key, action.op))

    def _store(self, stored: CtlRecord | Tok) -> None:
        self.output.append(stored)
        self._publish_live(self.output.entries[-1:])

    def _publish_live(self, entries: list[Entry]) -> None:
        for reader in self.readers:
            for entry in entries if reader.hears else ():
                if isinstance(entry.record, Tok):
                    self.put(reader, reader.relay.live_tok(entry.record, self.now))
                else:
                    self.put(reader, reader.relay.live_ctl(entry.record, self.now))

    def _ack(self) -> None:
        self.is_gone, self.is_queued = True, False

    def _nak(self, delay_s: float) -> None:
        if not self.is_gone:
            self._visible_at = self.now + delay_s

    def _cause(self, last: Entry | None) -> Cause:
        alive = [worker.name for worker in self.workers]
        match None if last is None else last.record:
            case Failed():
                return "engine_error"
            case Handoff():
                return "handoff"
            case Lease(worker=name) if name not in alive:
                return "worker_dead"
            case _:
                return "redelivered"

    def _due(self) -> float:
        dues = [worker.core.next_deadline() for worker in self.workers]
        dues += [reader.relay.next_deadline() for reader in self.readers]
        if not self.is_gone and not self.is_queued:
            dues.append(self._visible_at)
        return min([due for due in dues if due is not None], default=inf)

    def _tick(self) -> None:
        if not self.is_gone and not self.is_queued and self._visible_at <= self.now:
            self.is_queued = True
        for worker in list(self.workers):
            due = worker.core.next_deadline()
            if due is not None and due <= self.now:
                self._feed(worker, Tick())
        for reader in self.readers:
            self.put(reader, reader.relay.tick(self.now))
