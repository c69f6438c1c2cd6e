"""How an output log is read: the fold every reader and every new attempt agrees on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.choices import Choice, add_deltas, content_bytes
from schemas.output import STRIKE_CAUSES, CtlRecord, Delta, End, Failed, Lease, Tok


class Entry(NamedTuple):
    """One stored record with its stream sequence."""

    seq: int
    record: CtlRecord | Tok


@dataclass
class Fold:
    """A log's content up to some sequence: tokens `0 .. len(ids) - 1` and what they made, per choice.

    `of` names the choice of each token; it is empty while all are the first one's. `hole` is set when a record starts
    past the end of what is known (something before it is missing): what is folded then is only a prefix. `end` is the
    END record, if it was reached.
    """

    ids: list[int] = field(default_factory=list)
    of: list[int] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    end: End | None = None
    hole: bool = False

    def add(self, off: int, ids: list[int], deltas: list[Delta], of: Sequence[int] = ()) -> None:
        """Takes in the tokens of one record. Records repeat whole or not at all, so a known `off` is a repeat."""
        if off > len(self.ids):
            self.hole = True
        elif off == len(self.ids):
            if of or self.of:
                self.of.extend([0] * (len(self.ids) - len(self.of)))
                self.of.extend(of or [0] * len(ids))
            self.ids.extend(ids)
            add_deltas(self.choices, deltas)

    @property
    def texts(self) -> list[str]:
        """The whole text of each choice."""
        return [choice.text for choice in self.choices]

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but text."""
        return all(choice.is_plain for choice in self.choices)

    @property
    def content_bytes(self) -> bytes:
        """What `End.sha256` is taken over."""
        return content_bytes(self.choices)

    def copy(self) -> Fold:
        """Another one that grows on its own."""
        choices = [choice.copy() for choice in self.choices]
        return Fold(list(self.ids), list(self.of), choices, self.end, self.hole)


def fold(entries: Iterable[Entry], *, upto_seq: int | None = None) -> Fold:
    """Folds a log in stream order, up to and including `upto_seq`."""
    folded = Fold()
    for seq, record in entries:
        if upto_seq is not None and seq > upto_seq:
            break
        match record:
            case Tok():
                folded.add(record.off, record.ids, record.deltas, record.of)
            case End():
                if record.tail is not None:
                    tail = record.tail
                    folded.add(tail.off, tail.ids, tail.deltas, tail.of)
                folded.end = record
                break
            case _:
                pass
    return folded


def strikes(entries: Iterable[Entry]) -> int:
    """How often in a row a request brought its engine or worker down: trailing `failed` records and leases whose cause
    speaks against it, with no token after them. A fold of the log, so there is no counter to lose.

    A `failed` record and the lease with cause `engine_error` that follows it tell of one event and count once.
    """
    count = 0
    failed_before = False
    for _, record in entries:
        match record:
            case Tok():
                count = 0
                failed_before = False
            case Failed():
                count += 1
                failed_before = True
            case Lease() if record.cause in STRIKE_CAUSES:
                count += not failed_before
                failed_before = False
            case _:
                failed_before = False
    return count


def vain_attempts(entries: Iterable[Entry]) -> int:
    """How many attempts in a row made no new token before their engine or worker failed: `strikes`, but for the death
    of a worker that had got on with the request.

    To suspect the request that death is enough, to give it up it is not.
    """
    count = 0
    has_got_on = failed_before = False
    for _, record in entries:
        match record:
            case Tok():
                count = 0
                has_got_on, failed_before = True, False
            case Failed():
                count += 1
                failed_before = True
            case Lease():
                is_strike = record.cause in STRIKE_CAUSES
                count += is_strike and not failed_before and not has_got_on
                has_got_on = failed_before = False
            case _:
                failed_before = False
    return count
