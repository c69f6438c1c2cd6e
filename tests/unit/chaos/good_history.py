"""A history in which nothing is wrong, small enough to read: the tests make others of it by changing one thing.

Ann's first request is answered by two attempts, read on at another door and asked for twice under its key; Bob's is
cancelled; Ann's second is poison; Bob was refused once; Cem published his directly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from chaos.real.history import (
    Asked,
    Begun,
    Cancelled,
    Fault,
    Headed,
    Line,
    Over,
    Removed,
    Sample,
    Settled,
    Stored,
    Told,
)
from schemas import subjects
from schemas.output import CtlRecord, Delta, End, Failed, Lease, Tail, Tok, encode
from schemas.streams import OUTPUT, REQUESTS
from workers.engines.simulator import reference_tokens

STORY, CANCELLED, POISON, REFUSED, DIRECT = (
    f"{name:x<26}" for name in ("story", "gone", "evil", "never", "own")
)
DOORS = ("http://a", "http://b")
TOKENS = 6

_raw = msgspec.json.Encoder().encode


def body(prompt: str, **fields: object) -> bytes:
    """A chat."""
    messages = [{"role": "user", "content": prompt}]
    return _raw({"messages": messages, "max_tokens": TOKENS, "stream": True, **fields})


class History:
    """Lines, each a hundredth of a second after the one before."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.at = 1000.0
        self.seq = 100
        self.asks = 0
        self._queued: dict[str, int] = {}

    def tell(self, make: Callable[[float], Line]) -> None:
        self.at += 0.01
        self.lines.append(make(self.at))

    def ask(self, request: int, tenant: str, rid: str = "", *, status: int = 200, **more: object) -> int:
        """A connection, with its head."""
        self.asks += 1
        ask = self.asks
        fields: dict[str, object] = {
            "way": "stream",
            "klass": "standard",
            "door": DOORS[ask % 2],
            "body": msgspec.Raw(b"null"),
        }
        fields |= {"rid": rid if "last_event_id" in more else ""} | more
        self.tell(lambda at: Asked(at=at, ask=ask, request=request, tenant=tenant, **fields))  # type: ignore[arg-type]
        self.tell(lambda at: Headed(at, ask, status, rid))
        return ask

    def queue(self, tenant: str, rid: str, asked: bytes) -> None:
        """REQUESTS takes it."""
        self.seq += 1
        seq = self._queued[rid] = self.seq
        subject = subjects.request("standard", "penstock-sim", tenant, rid)
        self.tell(lambda at: Stored(at, REQUESTS, seq, subject, {}, msgspec.Raw(asked), at - 0.001))

    def ctl(self, tenant: str, rid: str, record: CtlRecord) -> int:
        """OUTPUT takes it; its sequence."""
        return self._output(subjects.output_ctl(tenant, rid), record)

    def tok(self, tenant: str, rid: str, record: Tok) -> None:
        """OUTPUT takes it."""
        self._output(subjects.output_tok(tenant, rid), record)

    def settle(self, rid: str, how: str = "acked") -> None:
        """REQUESTS lets it go."""
        seq = self._queued[rid]
        self.tell(lambda at: Removed(at, REQUESTS, seq, how, at - 0.002, at - 0.001))

    def told(self, ask: int, pieces: list[tuple[str, str]]) -> None:
        for event_id, text in pieces:
            self.tell(lambda at, i=event_id, t=text: Told(at, ask, i, t))  # type: ignore[misc]

    def _output(self, subject: str, record: CtlRecord | Tok) -> int:
        self.seq += 1
        seq = self.seq
        self.tell(lambda at: Stored(at, OUTPUT, seq, subject, {}, msgspec.Raw(encode(record)), at - 0.001))
        return seq


def good() -> list[Line]:
    """All of it."""
    history = History()
    history.tell(lambda at: Begun(at, 7, "embedded", {"edge": 2}, {}, "0"))
    history.tell(lambda at: _sample(at, 10 << 20))
    _story(history)
    _cancelled(history)
    _poison(history)
    _refused(history)
    _direct(history)
    history.tell(lambda at: Settled(at, 1.0, 0))
    history.tell(lambda at: _sample(at, 12 << 20))
    return history.lines


def _sample(at: float, rss_bytes: int) -> Sample:
    return Sample(at=at, process="worker-1", pid=1, rss_bytes=rss_bytes, files=20, subscriptions=3)


def _lease(nonce: str, attempt: int = 1, cause: str = "first") -> Lease:
    return Lease(nonce=nonce, worker=nonce, attempt=attempt, cause=cause)  # type: ignore[arg-type]


def _tokens(prompt: str) -> tuple[list[int], list[str]]:
    return reference_tokens(f"user: {prompt}", 0, TOKENS)


def _end(texts: list[str], nonce: str, **more: object) -> End:
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    return End(status="ok", nonce=nonce, n=len(texts), sha256=digest, **more)  # type: ignore[arg-type]


def _story(history: History) -> None:
    tenant, rid, asked = "ann", STORY, body("a story")
    ids, texts = _tokens("a story")
    ask = history.ask(1, tenant, rid, body=msgspec.Raw(asked), key="k1", leaving="detach")
    history.queue(tenant, rid, asked)
    first = history.ctl(tenant, rid, _lease("w1"))
    history.tok(tenant, rid, Tok(first, 0, ids[:2], [Delta(texts[0]), Delta(texts[1])]))
    history.told(ask, [("2-0", texts[0]), ("2-1", texts[1])])
    history.tell(lambda at: Fault(at, 1, "kill worker", "worker-1", "begin"))
    second = history.ctl(tenant, rid, _lease("w2", 2, "worker_dead"))
    history.tell(lambda at: Fault(at, 1, "kill worker", "worker-1", "end"))
    history.tok(tenant, rid, Tok(second, 2, ids[2:4], [Delta("".join(texts[2:4]))]))
    history.told(ask, [("4-0", "".join(texts[2:4]))])
    history.tell(lambda at: Over(at, ask, "left"))
    again = history.ask(1, tenant, rid, last_event_id="4-0")
    tail = Tail(4, ids[4:], [Delta("".join(texts[4:]))])
    history.ctl(tenant, rid, _end(texts, "w2", tail=tail))
    history.settle(rid)
    history.told(again, [("6-0", "".join(texts[4:]))])
    history.tell(lambda at: Over(at, again, "complete", tokens=TOKENS))
    twice = history.ask(1, tenant, rid, body=msgspec.Raw(asked), key="k1")
    pieces = [("2-0", texts[0]), ("2-1", texts[1]), ("4-0", "".join(texts[2:4])), ("6-0", "".join(texts[4:]))]
    history.told(twice, pieces)
    history.tell(lambda at: Over(at, twice, "complete", tokens=TOKENS))


def _cancelled(history: History) -> None:
    tenant, rid, asked = "bob", CANCELLED, body("too long")
    ids, texts = _tokens("too long")
    ask = history.ask(2, tenant, rid, body=msgspec.Raw(asked))
    history.queue(tenant, rid, asked)
    lease = history.ctl(tenant, rid, _lease("w3"))
    history.tok(tenant, rid, Tok(lease, 0, ids[:1], [Delta(texts[0])]))
    history.told(ask, [("1-0", texts[0])])
    history.ctl(tenant, rid, End(status="cancelled", reason="cancelled", message="the request was cancelled"))
    history.tell(lambda at: Cancelled(at, 2, rid, 200))
    history.settle(rid)
    history.tell(lambda at: Over(at, ask, "error", "cancelled"))


def _poison(history: History) -> None:
    tenant, rid = "ann", POISON
    asked = body("poison", penstock_fault={"raise_at_token": 0})
    ask = history.ask(3, tenant, rid, body=msgspec.Raw(asked), may_fail="poison")
    history.queue(tenant, rid, asked)
    history.ctl(tenant, rid, _lease("w4"))
    history.ctl(tenant, rid, Failed("w4", "fault injected"))
    history.ctl(tenant, rid, End(status="error", reason="poison", message="it failed"))
    history.settle(rid)
    history.tell(lambda at: Over(at, ask, "error", "poison"))


def _refused(history: History) -> None:
    ask = history.ask(4, "bob", REFUSED, status=429, body=msgspec.Raw(body("later")))
    history.tell(lambda at: Over(at, ask, "refused", "queue_full"))


def _direct(history: History) -> None:
    tenant, rid, asked = "cem", DIRECT, body("mine", n=2)
    choices = [reference_tokens("user: mine", seed, TOKENS) for seed in (0, 1)]
    ids = [token for pair in zip(choices[0][0], choices[1][0], strict=True) for token in pair]
    whole = ["".join(texts) for _, texts in choices]
    ask = history.ask(5, tenant, rid, body=msgspec.Raw(asked), way="direct")
    history.queue(tenant, rid, asked)
    lease = history.ctl(tenant, rid, _lease("w5"))
    deltas = [Delta(whole[0]), Delta(whole[1], choice=1)]
    history.tok(tenant, rid, Tok(lease, 0, ids, deltas, [0, 1] * TOKENS))
    digest = hashlib.sha256("\0".join(whole).encode()).hexdigest()
    history.ctl(tenant, rid, End(status="ok", nonce="w5", n=len(ids), sha256=digest))
    history.settle(rid, "unseen")
    history.tell(lambda at: Told(at, ask, "12-0", whole[0], 0))
    history.tell(lambda at: Told(at, ask, "12-1", whole[1], 1))
    history.tell(lambda at: Over(at, ask, "complete", tokens=len(ids)))
