"""The history, sorted by what it is evidence of: one log for each request, one conversation for each connection.

Records are read here by their format alone, not with the fold that edges and workers use: a mistake there must not hide
here. What a stream in memory has lost with its broker is not known to this reader: such a run is not checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import NamedTuple

import msgspec

from chaos.real.checker.reference import Reference
from chaos.real.history import (
    Asked,
    Begun,
    Cancelled,
    Fault,
    Headed,
    Line,
    Missed,
    Over,
    Removed,
    Sample,
    Settled,
    Stored,
    Told,
)
from schemas import subjects
from schemas.output import CtlRecord, Delta, End, Lease, Tok, decode_ctl, decode_tok
from schemas.streams import OUTPUT, REQUESTS

Name = tuple[str, str]
"""Tenant and rid."""

ACCEPTED = 200


class Step(NamedTuple):
    """A record, and the log as it was before it. `record` is None where the bytes are none."""

    stored: Stored
    record: CtlRecord | Tok | None
    have: int
    ctl: tuple[int, CtlRecord] | None
    """The newest ctl record, with its sequence."""
    fresh: bool
    """Whether the attempt that the newest ctl record begins has stored nothing yet."""


@dataclass
class Conversation:
    """One connection of a client, from its question to the end of the answer."""

    asked: Asked
    head: Headed | None = None
    told: list[Told] = field(default_factory=list)
    over: Over | None = None

    @property
    def rid(self) -> str:
        """The request it turned out to be about; empty: it was never told."""
        return self.head.rid if self.head is not None and self.head.rid else self.asked.rid

    @property
    def outcome(self) -> str:
        """How it ended; "open" if it did not."""
        return "open" if self.over is None else self.over.outcome


@dataclass
class Log:
    """All that is known of one request."""

    name: Name
    queued: list[Stored] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    output: list[Stored] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    cancels: list[Cancelled] = field(default_factory=list)

    @property
    def rid(self) -> str:
        """The request's name."""
        return self.name[1]

    @property
    def steps(self) -> list[Step]:
        """Its records in stream order."""
        return self._read.steps

    @property
    def texts(self) -> list[str]:
        """The text of each choice, as stored."""
        return self._read.texts

    @property
    def tokens(self) -> int:
        """How many tokens of all choices are stored."""
        return self._read.tokens

    @cached_property
    def _read(self) -> _Reading:
        return _Reading(self.output)

    @cached_property
    def ends(self) -> list[Step]:
        """Its ENDs: there must be one."""
        return [step for step in self.steps if isinstance(step.record, End)]

    @property
    def end(self) -> End | None:
        """The first END."""
        record = self.ends[0].record if self.ends else None
        return record if isinstance(record, End) else None

    @cached_property
    def there_since(self) -> float:
        """When the first thing of it was stored; inf: nothing was. Before that nobody can know of it."""
        return min((stored_at(one) for one in (*self.queued, *self.output)), default=inf)

    @cached_property
    def reference(self) -> Reference | None:
        """The one right output, by the body that was queued, or else by what was asked; None: neither was seen."""
        if self.queued:
            return Reference(bytes(self.queued[0].record), self.queued[0].headers)
        return self.wanted

    @cached_property
    def wanted(self) -> Reference | None:
        """The one right output, by what a client asked for."""
        asked = [talk.asked for talk in self.conversations if talk.asked.body != b"null"]
        return Reference(bytes(asked[0].body)) if asked else None

    @property
    def is_healthy(self) -> bool:
        """Whether nothing in the request itself makes engines fail."""
        return self.reference is not None and self.reference.is_healthy


class _Reading:
    """One pass over the records of a log."""

    def __init__(self, output: list[Stored]) -> None:
        self.steps: list[Step] = []
        self.texts: list[str] = []
        self.tokens = 0
        ctl: tuple[int, CtlRecord] | None = None
        fresh = has_end = False
        for stored in sorted(output, key=lambda one: one.seq):
            record = _decode(stored, is_ctl=subjects.is_ctl(stored.subject))
            self.steps.append(Step(stored, record, self.tokens, ctl, fresh))
            if record is None:
                continue
            if isinstance(record, Tok):
                self._grow(record.off, record.ids, record.deltas)
                fresh = False
                continue
            if isinstance(record, End):
                if record.tail is not None and not has_end:
                    self._grow(record.tail.off, record.tail.ids, record.tail.deltas)
                has_end = True
            ctl, fresh = (stored.seq, record), isinstance(record, Lease)

    def _grow(self, off: int, ids: list[int], deltas: list[Delta]) -> None:
        if off != self.tokens:
            return
        self.tokens += len(ids)
        for delta in deltas:
            if delta.text:
                self.texts += [""] * (delta.choice + 1 - len(self.texts))
                self.texts[delta.choice] += delta.text


class Evidence:
    """A whole history."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.logs: dict[Name, Log] = {}
        self.conversations: dict[int, Conversation] = {}
        self.faults: list[Fault] = []
        self.samples: list[Sample] = []
        self.settled: list[Settled] = []
        self.missed: list[Missed] = []
        self.cancels: list[Cancelled] = []
        self.begun: Begun | None = None
        self.first_asked_at = 0.0
        self._queued: dict[int, Log] = {}
        self._seen: set[tuple[str, int]] = set()
        for line in lines:
            self._take(line)
        self._join()

    def setting(self, name: str, default: float) -> float:
        """A setting that is a number."""
        return float(self.begun.settings.get(name, default)) if self.begun is not None else default

    def log_of(self, tenant: str, rid: str) -> Log | None:
        """What was stored of a tenant's request; None: nothing."""
        return self.logs.get((tenant, rid))

    def _take(self, line: Line) -> None:
        match line:
            case Stored():
                self._stored(line)
            case Told() if line.ask in self.conversations:
                self.conversations[line.ask].told.append(line)
            case Asked():
                self.first_asked_at = self.first_asked_at or line.at
                self.conversations[line.ask] = Conversation(line)
            case Headed() if line.ask in self.conversations:
                self.conversations[line.ask].head = line
            case Over() if line.ask in self.conversations:
                self.conversations[line.ask].over = line
            case Removed(stream=stream) if stream == REQUESTS and line.seq in self._queued:
                self._queued[line.seq].removed.append(line)
            case Cancelled():
                self.cancels.append(line)
            case Fault():
                self.faults.append(line)
            case Sample():
                self.samples.append(line)
            case Settled():
                self.settled.append(line)
            case Missed():
                self.missed.append(line)
            case Begun():
                self.begun = line
            case _:
                pass

    def _stored(self, line: Stored) -> None:
        if (line.stream, line.seq) in self._seen:
            return
        self._seen.add((line.stream, line.seq))
        if line.stream == REQUESTS:
            named = subjects.parse_request(line.subject)
            if named is not None:
                log = self._log((named.tenant, named.rid))
                log.queued.append(line)
                self._queued[line.seq] = log
        elif line.stream == OUTPUT:
            tenant, rid = line.subject.split(".")[-3:-1]
            self._log((tenant, rid)).output.append(line)

    def _log(self, name: Name) -> Log:
        return self.logs.setdefault(name, Log(name))

    def _join(self) -> None:
        for talk in self.conversations.values():
            head = talk.head
            is_accepted = head is not None and head.status == ACCEPTED
            name = (talk.asked.tenant, talk.rid)
            if talk.rid and (is_accepted or name in self.logs):
                self._log(name).conversations.append(talk)
        tenants = {log.rid: name[0] for name, log in self.logs.items()}
        for cancel in self.cancels:
            if cancel.rid in tenants:
                self._log((tenants[cancel.rid], cancel.rid)).cancels.append(cancel)


def stored_at(stored: Stored) -> float:
    """When the broker stored it, or else when the tap saw it."""
    return stored.stored_at or stored.at


def _decode(stored: Stored, *, is_ctl: bool) -> CtlRecord | Tok | None:
    try:
        return decode_ctl(bytes(stored.record)) if is_ctl else decode_tok(bytes(stored.record))
    except msgspec.DecodeError:
        return None
