"""How an output log is read: the fold every reader and every new attempt agrees on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.output import STRIKE_CAUSES, CtlRecord, Delta, End, Failed, Lease, Tok, text_of_choices


class Entry(NamedTuple):
    """One stored record with its stream sequence."""

    seq: int
    record: CtlRecord | Tok


@dataclass
class Fold:
    """A log's content up to some sequence: tokens `0 .. len(ids) - 1` and the text they made, per choice.

    `hole` is set when a record starts past the end of what is known (something before it is missing): what is folded
    then is only a prefix. `end` is the END record, if it was reached.
    """

    ids: list[int] = field(default_factory=list)
    pieces: list[list[str]] = field(default_factory=list)
    end: End | None = None
    hole: bool = False

    def add(self, off: int, ids: list[int], deltas: list[Delta]) -> None:
        """Takes in the tokens of one record. Records repeat whole or not at all, so a known `off` is a repeat."""
        if off > len(self.ids):
            self.hole = True
        elif off == len(self.ids):
            self.ids.extend(ids)
            for delta in deltas:
                while delta.choice >= len(self.pieces):
                    self.pieces.append([])
                self.pieces[delta.choice].append(delta.text)

    @property
    def texts(self) -> list[str]:
        """The whole text of each choice."""
        return ["".join(pieces) for pieces in self.pieces]

    @property
    def text_bytes(self) -> bytes:
        """What `End.sha256` is taken over."""
        return text_of_choices(self.texts)


def fold(entries: Iterable[Entry], *, upto_seq: int | None = None) -> Fold:
    """Folds a log in stream order, up to and including `upto_seq`."""
    folded = Fold()
    for seq, record in entries:
        if upto_seq is not None and seq > upto_seq:
            break
        match record:
            case Tok():
                folded.add(record.off, record.ids, record.deltas)
            case End():
                if record.tail is not None:
                    folded.add(record.tail.off, record.tail.ids, record.tail.deltas)
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
