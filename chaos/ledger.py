"""What the broker stored, record by record, and what must hold of each: I1-I5, I7, I8 and I10 of the design."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from schemas import subjects
from schemas.output import CtlRecord, Delta, End, Failed, Handoff, Lease, decode_ctl, decode_tok
from schemas.streams import OUTPUT, REQUESTS
from workers.engines.simulator import prompt_of, reference_tokens
from workers.engines.simulator_body import Faults, InvalidRequest, decode_body

Name = tuple[str, str]
"""Tenant and rid."""

Violated = Callable[[str, str], None]
"""Gets the invariant's number and what is wrong."""

LOST = "lost"
"""Why the broker says a record is gone that was in memory when it died."""

LEASES_SPARE = 1
"""The lease under which a worker finds that there have been too many."""


class Reference:
    """The one right output of a body."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.faults = Faults()
        self.tokens_max = 0
        self.text = ""
        self.ids: list[int] = []
        try:
            decoded = decode_body(body)
            prompt = prompt_of(body)
        except InvalidRequest:
            return
        self.faults = decoded.penstock_fault
        self.tokens_max = decoded.max_completion_tokens or decoded.max_tokens or 0
        stops = [decoded.stop] if isinstance(decoded.stop, str) else decoded.stop or []
        ids, texts = reference_tokens(prompt, decoded.seed or 0, self.tokens_max)
        for token, text in zip(ids, texts, strict=True):
            self.ids.append(token)
            self.text += text
            found = [at for at in [self.text.find(stop) for stop in stops] if at >= 0]
            if found:
                self.text = self.text[: min(found)]
                return


@dataclass
class Log:
    """One request's output log as stored so far, and its message in the queue."""

    name: Name
    reference: Reference = field(default_factory=lambda: Reference(b""))
    queued: dict[int, None] = field(default_factory=dict)
    """Sequences of its messages that are in REQUESTS."""
    stored: int = 0
    """Messages of it that REQUESTS ever took."""
    ids: list[int] = field(default_factory=list)
    text: str = ""
    toks: dict[int, bytes] = field(default_factory=dict)
    ctl: list[tuple[int, CtlRecord]] = field(default_factory=list)
    base: int = 0
    """Tokens in the log when the newest lease was stored."""
    tok_since_lease: bool = False
    end: End | None = None
    end_at: float = 0.0
    was_lost: bool = False
    """Whether the broker has lost everything it had of it, as with streams in memory."""
    had_end: bool = False
    """Whether there was an END in what was lost."""

    @property
    def leases(self) -> list[Lease]:
        """All of them, oldest first."""
        return [record for _, record in self.ctl if isinstance(record, Lease)]


class Ledger:
    """Fed by the broker's taps. `attempts_max` is the setting; `count` gets what was exercised."""

    def __init__(
        self, now: Callable[[], float], violated: Violated, count: Counter[str], *, attempts_max: int
    ) -> None:
        self.logs: dict[Name, Log] = {}
        self._now = now
        self._violated = violated
        self._count = count
        self._attempts_max = attempts_max
        self._nonces: dict[str, None] = {}
        self.on_ctl: list[Callable[[Log, int, CtlRecord], None]] = []

    def stored(self, stream: str, seq: int, subject: str, _headers: bytes, payload: bytes) -> str | None:
        """The broker stored a message: "queued", "tok", or the kind of ctl record; None: nothing of a request."""
        if stream == REQUESTS:
            named = subjects.parse_request(subject)
            assert named is not None, "every subject in this world names a request"
            self._on_request((named.tenant, named.rid), seq, payload)
            return "queued"
        if stream == OUTPUT:
            tenant, rid = subject.split(".")[-3:-1]
            log = self.logs.setdefault((tenant, rid), Log((tenant, rid)))
            if subjects.is_ctl(subject):
                return self._on_ctl(log, seq, payload)
            self._on_tok(log, payload)
            return "tok"
        return None

    def removed(self, stream: str, seq: int, subject: str, why: str) -> None:
        """A message is in its stream no more."""
        if stream == OUTPUT:
            tenant, rid = subject.split(".")[-3:-1]
            log = self.logs[tenant, rid]
            if why == LOST:
                had_end = log.had_end or log.end is not None
                for lease in log.leases:  # whose PubAck did not arrive is sent again
                    self._nonces.pop(lease.nonce, None)
                kept = (log.name, log.reference, log.queued, log.stored)
                self.logs[tenant, rid] = Log(*kept, was_lost=True, had_end=had_end)
            elif log.end is None or log.queued:
                self._violated("I1", f"record {seq} of {rid} is gone ({why}) while the request is not over")
        elif stream == REQUESTS:
            named = subjects.parse_request(subject)
            assert named is not None, "every subject in this world names a request"
            log = self.logs[named.tenant, named.rid]
            log.queued.pop(seq, None)
            self._count[f"removed {why}"] += 1
            if log.end is None and not log.had_end:
                self._violated("I2", f"{named.rid} left the queue ({why}) without an END")

    def log_of(self, rid: str) -> Log | None:
        """The log of a rid, whosever it is."""
        return next((log for (_, one), log in self.logs.items() if one == rid), None)

    def _on_request(self, name: Name, seq: int, payload: bytes) -> None:
        log = self.logs.setdefault(name, Log(name))
        log.reference = Reference(payload)
        log.stored += 1
        log.queued[seq] = None
        if len(log.queued) > 1:
            self._violated("I9", f"{name[1]} is in the queue twice")

    def _on_tok(self, log: Log, payload: bytes) -> None:
        rid = log.name[1]
        try:
            tok = decode_tok(payload)
        except msgspec.DecodeError as error:
            self._violated("I4", f"{rid} got a tok record that is none: {error}")
            return
        if log.end is not None:
            self._violated("I3", f"{rid} got tokens after its END")
        seq, newest = log.ctl[-1] if log.ctl else (0, None)
        if not isinstance(newest, Lease) or tok.lease != seq:
            self._violated(
                "I7", f"{rid} got tokens under lease {tok.lease}; its newest ctl record is {seq}: {newest}"
            )
        if tok.off in log.toks:
            self._count["repeated tok"] += 1
            if log.toks[tok.off] != payload:
                self._violated("I4", f"{rid} got other tokens at offset {tok.off}")
            return
        if tok.off != len(log.ids):
            self._violated("I4", f"{rid} got tokens at offset {tok.off}, it has {len(log.ids)}")
        if not log.tok_since_lease and tok.off != log.base:
            self._violated("I5", f"{rid}: an attempt began at {tok.off}, its lease found {log.base}")
        log.tok_since_lease = True
        log.toks[tok.off] = payload
        self._grow(log, tok.ids, tok.deltas)
        self._count["tok"] += 1

    def _grow(self, log: Log, ids: list[int], deltas: list[Delta]) -> None:
        log.ids += ids
        log.text += "".join(delta.text for delta in deltas)
        right = log.reference
        if log.ids != right.ids[: len(log.ids)] or not right.text.startswith(log.text):
            self._violated("I8", f"{log.name[1]} has {log.text!r}, the reference is {right.text!r}")

    def _on_ctl(self, log: Log, seq: int, payload: bytes) -> str | None:
        rid = log.name[1]
        try:
            record = decode_ctl(payload)
        except msgspec.DecodeError as error:
            self._violated("I3", f"{rid} got a ctl record that is none: {error}")
            return None
        if log.end is not None:
            self._violated("I3", f"{rid} got {record} after its END")
        match record:
            case Lease():
                self._on_lease(log, record)
                self._count[f"lease {record.cause}"] += 1
            case Failed() | Handoff():
                self._of_owner(log, record)
                self._count[type(record).__name__.lower()] += 1
            case End():
                self._on_end(log, record)
                self._count[f"END {record.status} {record.reason}".strip()] += 1
        log.ctl.append((seq, record))
        for tell in self.on_ctl:
            tell(log, seq, record)
        return type(record).__name__.lower()

    def _on_lease(self, log: Log, lease: Lease) -> None:
        if lease.nonce in self._nonces:
            self._violated("I5", f"nonce {lease.nonce} was used before")
        self._nonces[lease.nonce] = None
        if not log.stored:
            # An END may come first, of an edge that does not know whether it is queued; nothing else may.
            self._violated("I9", f"{log.name[1]} was never queued and got {lease}")
        log.base = len(log.ids)
        log.tok_since_lease = False
        if len(log.leases) >= self._attempts_max + LEASES_SPARE:
            self._violated("I10", f"{log.name[1]} was tried {len(log.leases) + 1} times")

    def _of_owner(self, log: Log, record: Failed | Handoff | End) -> None:
        newest = log.ctl[-1][1] if log.ctl else None
        if not isinstance(newest, Lease) or newest.nonce != record.nonce:
            self._violated("I7", f"{log.name[1]} got {record} after {newest}")
        if isinstance(record, Handoff) and record.n != len(log.ids):
            self._violated("I4", f"{log.name[1]} was handed off at {record.n}, it has {len(log.ids)} tokens")

    def _on_end(self, log: Log, end: End) -> None:
        rid = log.name[1]
        if end.nonce:
            self._of_owner(log, end)
        if end.tail is not None:
            if end.tail.off != len(log.ids):
                self._violated("I4", f"{rid} ends with tokens at {end.tail.off}, it has {len(log.ids)}")
            self._grow(log, end.tail.ids, end.tail.deltas)
        if end.n is not None:
            digest = hashlib.sha256(log.text.encode()).hexdigest()
            if (end.n, end.sha256) != (len(log.ids), digest):
                self._violated(
                    "I4", f"{rid} ends after {end.n} tokens, its log has {len(log.ids)}: {log.text!r}"
                )
        if end.text is not None and "".join(end.text) != log.text:
            self._violated("I4", f"{rid} ends with the text {end.text}, its log has {log.text!r}")
        if end.status == "ok" and log.text != log.reference.text:
            self._violated("I8", f"{rid} ended ok with {log.text!r}, the reference is {log.reference.text!r}")
        log.end = end
        log.end_at = self._now()
