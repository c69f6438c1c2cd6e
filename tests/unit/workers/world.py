"""A world for worker cores: a clock that is turned by hand, and a small model of the broker and the engine.

`Harness` drives one core event by event, for tests that assert on returned actions. `Life` lets cores live against
`Log`, which stores records with the broker's CAS and fence, and engines that make the simulator's reference text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from schemas import subjects
from schemas.dead import DEAD_LETTER, DeadLetter, decode_dead_letter
from schemas.dispatch import ModelCard, Work, WorkItem
from schemas.log import Entry, Fold, fold
from schemas.output import Delta, End, Failed, Handoff, Lease, Tok, Usage, decode_ctl, decode_tok
from schemas.requests import RequestMeta
from workers.core import WorkerCore
from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    Prefix,
)
from workers.engines.simulator import prompt_of, reference_text, reference_tokens
from workers.events import (
    Ack,
    Action,
    CtlRead,
    Event,
    LogRead,
    Nak,
    Offered,
    Publish,
    ReadCtl,
    ReadLog,
    Refused,
    Reply,
    StartEngine,
    StopEngine,
    Stored,
    Tick,
)
from workers.limits import WorkerLimits

TENANT = "public"
RID = "a" * 26
KEY = f"{TENANT}.{RID}"
DEAD = subjects.dead("m", TENANT, RID)
CAPABILITIES = Capabilities(
    engine="simulator",
    revision="r1",
    tokenizer="words",
    context_tokens_max=4096,
    max_tokens_default=64,
    slots=4,
)
CARD = ModelCard("m", "m", "simulator", 4096, 64)
LIMITS = WorkerLimits(
    slots=4,
    queue_timeout_s=120,
    request_timeout_s=300,
    request_timeout_max_s=3600,
    ack_wait_s=12,
    pull_interval_s=0.5,
    append_interval_s=0.25,
    append_bytes_max=65_536,
    append_timeout_s=1,
    step_s_max=10,
    strikes_max=3,
    attempts_max=20,
)
USAGE = Usage(prompt_tokens=1, completion_tokens=2)
WRONG_LAST = 10071

T = TypeVar("T")


def item(rid: str = RID, **changes: Any) -> WorkItem:
    """An item of a batch: a first delivery, unless told otherwise. `meta` fields are given as `meta=dict(...)`."""
    fields: dict[str, Any] = {
        "rid": rid,
        "tenant": TENANT,
        "attempt": 1,
        "ctl_seq": 0,
        "cause": "first",
        "age_s": 0.0,
        "body": b'{"prompt": "water", "max_tokens": 8}',
    }
    fields["ack"] = f"ack.{rid}.{changes.get('attempt', 1)}"
    meta = RequestMeta(**changes.pop("meta", {}))
    return WorkItem(**(fields | changes), meta=meta)


def all_of(actions: list[Action], kind: type[T]) -> list[T]:
    return [action for action in actions if isinstance(action, kind)]


def one(actions: list[Action], kind: type[T]) -> T:
    """The only action of its kind."""
    found = all_of(actions, kind)
    assert len(found) == 1, f"expected one {kind.__name__} in {actions}"
    return found[0]


def record(publish: Publish) -> Lease | Failed | Handoff | End | Tok:
    """What a publish wants to store."""
    assert publish.kind != "dead", "a letter is no record: see `letter`"
    if publish.kind == "append":
        return decode_tok(publish.body)
    return decode_ctl(publish.body)


def letter(publish: Publish) -> DeadLetter:
    """What a dead letter tells."""
    assert publish.kind == "dead"
    assert publish.headers is not None
    return decode_dead_letter(publish.headers[DEAD_LETTER])


def told(prefix: Prefix | None) -> tuple[list[int], list[str]]:
    """What an engine is told to go on from: the tokens, and the text of each choice."""
    assert prefix is not None
    return prefix.ids, [choice.text for choice in prefix.choices]


class Harness:
    """One core, one request at a time, and every answer by hand. `check()` runs after each event."""

    def __init__(self, *, capabilities: Capabilities = CAPABILITIES, **limits: Any) -> None:
        self.now = 100.0
        self.core = WorkerCore("w1", CARD, capabilities, replace(LIMITS, **limits))
        self.publish: Publish | None = None
        self.request: EngineRequest | None = None
        self.read: ReadCtl | ReadLog | None = None

    def do(self, event: Event) -> list[Action]:
        """Feeds an event; remembers the newest publish, engine request and read."""
        actions = self.core.handle(event, self.now)
        self.core.check()
        for action in actions:
            match action:
                case Publish():
                    self.publish = action
                case StartEngine():
                    self.request = action.request
                case ReadCtl() | ReadLog():
                    self.read = action
        return actions

    def offer(self, *items: WorkItem, seq: int = 1) -> list[Action]:
        return self.do(Offered(Work(seq, list(items)), "reply"))

    def stored(self, seq: int) -> list[Action]:
        assert self.publish is not None
        return self.do(Stored(self.publish.key, self.publish.op, seq))

    def refused(self, err_code: int = WRONG_LAST, last_seq: int = 0) -> list[Action]:
        assert self.publish is not None
        return self.do(Refused(self.publish.key, self.publish.op, err_code, last_seq))

    def ctl(self, seq: int, ctl_record: Lease | Failed | Handoff | End | None) -> list[Action]:
        assert self.read is not None
        return self.do(CtlRead(self.read.key, self.read.op, seq, ctl_record))

    def log(self, *entries: Entry) -> list[Action]:
        assert self.read is not None
        return self.do(LogRead(self.read.key, self.read.op, list(entries)))

    def output(self, *tokens: tuple[int, str]) -> list[Action]:
        """One engine output of these tokens (id, text), each with a delta of its own."""
        assert self.request is not None
        ids, deltas = [token for token, _ in tokens], [Delta(text) for _, text in tokens]
        return self.do(EngineOutput(self.request.key, self.request.run, ids, deltas))

    def finish(self, *tokens: tuple[int, str]) -> list[Action]:
        assert self.request is not None
        ids, deltas = [token for token, _ in tokens], [Delta(text) for _, text in tokens]
        return self.do(EngineFinished(self.request.key, self.request.run, ["stop"], USAGE, ids, deltas))

    def later(self, seconds: float) -> list[Action]:
        """Lets time pass, with a tick at every deadline on the way."""
        until = self.now + seconds
        actions: list[Action] = []
        while (at := self.core.next_deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            actions += self.do(Tick())
        self.now = until
        return actions

    def running(self, lease_seq: int = 10, **changes: Any) -> None:
        """A first delivery whose lease is stored."""
        self.offer(item(**changes))
        self.stored(lease_seq)

    def nonce(self) -> str:
        """The nonce of the newest lease that was published."""
        assert self.publish is not None
        lease = record(self.publish)
        assert isinstance(lease, Lease)
        return lease.nonce


def lease(nonce: str, attempt: int = 1, **changes: Any) -> Lease:
    """Somebody's lease; by default of an engine like ours."""
    fields = {"cause": "first", "revision": "r1", "tokenizer": "words", "engine": "simulator"} | changes
    return Lease(nonce=nonce, worker="w2", attempt=attempt, **fields)


class Log:
    """The OUTPUT stream as the broker keeps it, for one request: CAS on ctl, fence on tok. Asserts I3, I4, I5 and I7 on
    every record it stores."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.letter: Publish | None = None
        """What DEAD keeps of the request."""

    @property
    def last_ctl(self) -> Entry | None:
        ctl = [entry for entry in self.entries if not isinstance(entry.record, Tok)]
        return ctl[-1] if ctl else None

    @property
    def end(self) -> End | None:
        last = self.last_ctl
        return last.record if last is not None and isinstance(last.record, End) else None

    def store(self, publish: Publish) -> Stored | Refused:
        if publish.kind == "dead":
            return self._store_letter(publish)
        assert publish.fence == subjects.output_ctl(TENANT, RID)
        last_seq = 0 if self.last_ctl is None else self.last_ctl.seq
        if publish.expect != last_seq:
            return Refused(publish.key, publish.op, WRONG_LAST, last_seq)
        self.append(record(publish))
        return Stored(publish.key, publish.op, self.entries[-1].seq)

    def _store_letter(self, publish: Publish) -> Stored | Refused:
        assert (publish.subject, publish.fence, publish.expect) == (DEAD, DEAD, 0)
        assert self.end is None or self.end.reason != "poison", "a letter is written before its END"
        if self.letter is not None:
            return Refused(publish.key, publish.op, WRONG_LAST, 1)
        self.letter = publish
        return Stored(publish.key, publish.op, 1)

    def append(self, stored: Lease | Failed | Handoff | End | Tok) -> None:
        assert self.end is None, "I3: nothing is stored after END"
        before = fold(self.entries)
        if isinstance(stored, Tok):
            self._check_tok(stored, before)
        self.entries.append(Entry(1000 + len(self.entries), stored))
        if isinstance(stored, End) and stored.n is not None:
            whole = fold(self.entries)
            assert stored.n == len(whole.ids), "I4: END.n"
            assert not whole.hole

    def _check_tok(self, tok: Tok, before: Fold) -> None:
        last = self.last_ctl
        assert last is not None
        assert isinstance(last.record, Lease)
        assert tok.lease == last.seq, "I7: nothing is stored under an older lease"
        assert tok.off <= len(before.ids), "I4: no hole"
        if tok.off < len(before.ids):
            assert tok in [entry.record for entry in self.entries], "I4: a repeat is byte-equal"
        elif not any(isinstance(e.record, Tok) and e.record.lease == tok.lease for e in self.entries):
            assert tok.off == len(fold(self.entries, upto_seq=last.seq).ids), (
                "I5: goes on where the lease found it"
            )


class ReferenceEngine:
    """Runs of one worker, a token per step, by the simulator's reference."""

    def __init__(self) -> None:
        self.runs: dict[str, tuple[EngineRequest, int]] = {}

    def submit(self, request: EngineRequest) -> None:
        made = 0 if request.prefix is None else len(request.prefix.ids)
        if request.prefix is not None:
            prompt = prompt_of(request.body)
            assert request.prefix.ids == reference_tokens(prompt, 0, made)[0]
            assert [choice.text for choice in request.prefix.choices] == [reference_text(prompt, 0, made)]
        self.runs[request.key] = (request, made)

    def step(self) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        for key, (request, made) in list(self.runs.items()):
            n = msgspec.json.decode(request.body)["max_tokens"]
            ids, texts = reference_tokens(prompt_of(request.body), 0, n)
            if made + 1 >= n:
                usage = Usage(prompt_tokens=1, completion_tokens=n)
                deltas = [Delta(text) for text in texts[made:n]]
                events.append(EngineFinished(key, request.run, ["length"], usage, ids[made:n], deltas))
                del self.runs[key]
            else:
                events.append(EngineOutput(key, request.run, [ids[made]], [Delta(texts[made])]))
                self.runs[key] = (request, made + 1)
        return events


class Life:
    """One worker of a world: its core, its engine, and what it has yet to do."""

    def __init__(self, name: str, log: Log) -> None:
        self.core = WorkerCore(name, CARD, CAPABILITIES, LIMITS)
        self.engine = ReferenceEngine()
        self.log = log
        self.todo: list[Action] = []
        self.inbox: list[Event] = []
        self.is_acked = False
        self.naks = 0

    def feed(self, event: Event, now: float) -> None:
        self.todo += self.core.handle(event, now)
        self.core.check()

    def act(self) -> None:
        """Does the first thing that is to be done; its answer, if there is one, waits in the inbox."""
        action = self.todo.pop(0)
        match action:
            case Publish():
                self.inbox.append(self.log.store(action))
            case StartEngine():
                self.engine.submit(action.request)
            case StopEngine():
                self.engine.runs.pop(action.key, None)
            case ReadCtl():
                last = self.log.last_ctl
                answer = CtlRead(action.key, action.op, 0, None)
                if last is not None:
                    assert not isinstance(last.record, Tok)
                    answer = CtlRead(action.key, action.op, last.seq, last.record)
                self.inbox.append(answer)
            case ReadLog():
                entries = [entry for entry in self.log.entries if entry.seq <= action.upto_seq]
                self.inbox.append(LogRead(action.key, action.op, entries))
            case Ack():
                assert self.log.end is not None, "I2: acked without END"
                self.is_acked = True
            case Nak():
                self.naks += 1
            case Reply():
                assert action.answers in (["accepted"], ["mine"], ["done"]), action

    def advance(self, now: float) -> bool:
        """One thing happens: an action, an answer, or an engine step. False: nothing is left to happen."""
        if self.todo:
            self.act()
        elif self.inbox:
            self.feed(self.inbox.pop(0), now)
        else:
            events = self.engine.step()
            self.inbox += events
            return bool(events)
        return True
