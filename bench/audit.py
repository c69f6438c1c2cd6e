"""The invariants of finished output logs, checked on the raw records of OUTPUT, in stream order.

Written against the record format and not with the fold that edges and workers use: a mistake there must not hide here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.log import Entry, strikes
from schemas.output import decode_ctl, decode_tok


class Stored(NamedTuple):
    """One message of OUTPUT."""

    seq: int
    subject: str
    payload: bytes


@dataclass
class Log:
    """One request's log: what it holds, and what is wrong with it."""

    rid: str
    ids: list[int] = field(default_factory=list)
    text: dict[int, str] = field(default_factory=dict)
    leases: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    offences: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    _records: dict[int, bytes] = field(default_factory=dict)
    _thoughts: dict[int, str] = field(default_factory=dict)
    _calls: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    _ctl_seq: int = 0
    _ctl_kind: str = ""
    _fresh_lease: bool = False

    @property
    def status(self) -> str:
        """The status of END, or "open"."""
        return str(self.ends[0]["status"]) if self.ends else "open"

    @property
    def causes(self) -> list[str]:
        """Why each attempt was made."""
        return [str(lease["cause"]) for lease in self.leases]

    @property
    def strikes(self) -> int:
        """What the request would have to answer for if it came again now."""
        return strikes(self.entries)

    def add(self, seq: int, is_ctl: bool, payload: bytes) -> None:
        """Takes in the next record of this log."""
        record = json.loads(payload)
        self.entries.append(Entry(seq, decode_ctl(payload) if is_ctl else decode_tok(payload)))
        self._check(not self.ends, f"I3: record {seq} after END")
        if is_ctl:
            self._add_ctl(seq, record)
        else:
            newest_lease = self._ctl_kind == "lease" and record["lease"] == self._ctl_seq
            self._check(newest_lease, f"I7: tok {seq} under {record['lease']}, ctl is {self._ctl_seq}")
            self._add_tokens(seq, record)

    def _add_ctl(self, seq: int, record: dict[str, Any]) -> None:
        kind = record["t"]
        if kind == "lease":
            nonces = [lease["nonce"] for lease in self.leases]
            self._check(record["nonce"] not in nonces, f"I5: nonce {record['nonce']} twice")
            self.leases.append(record)
            self._fresh_lease = True
        elif kind == "end":
            if record.get("tail"):
                self._add_tokens(seq, record["tail"])
            self.ends.append(record)
            self._check_end(record)
        self._ctl_seq, self._ctl_kind = seq, kind

    def _add_tokens(self, seq: int, record: dict[str, Any]) -> None:
        off, ids, deltas = record["off"], record["ids"], record.get("deltas", [])
        if self._fresh_lease:
            self._check(off == len(self.ids), f"I5: attempt begins at {off}, log has {len(self.ids)}")
            self._fresh_lease = False
        content = json.dumps([ids, deltas, record.get("of", [])]).encode()
        if off in self._records:
            self._check(self._records[off] == content, f"I4: {seq} repeats offset {off} with other bytes")
            return
        self._check(off == len(self.ids), f"I4: {seq} has offset {off}, log has {len(self.ids)}")
        self._records[off] = content
        self.ids += ids
        for delta in deltas:
            self._add_delta(delta)

    def _add_delta(self, delta: dict[str, Any]) -> None:
        choice = delta.get("choice", 0)
        self.text[choice] = self.text.get(choice, "") + delta["text"]
        self._thoughts[choice] = self._thoughts.get(choice, "") + delta.get("reasoning", "")
        for piece in delta.get("tools", []):
            name, arguments = self._calls.get((choice, piece["index"]), ("", ""))
            name, arguments = name + piece.get("name", ""), arguments + piece.get("arguments", "")
            self._calls[choice, piece["index"]] = name, arguments

    def _content(self, choice: int) -> bytes:
        """As END.sha256 has it."""
        content = self.text[choice]
        if self._thoughts[choice]:
            content += "\1" + self._thoughts[choice]
        for (of, _), (name, arguments) in sorted(self._calls.items()):
            content += f"\2{name}\3{arguments}" if of == choice else ""
        return content.encode()

    def _check_end(self, end: dict[str, Any]) -> None:
        if end.get("n") is None:
            return
        self._check(end["n"] == len(self.ids), f"I4: END.n is {end['n']}, log has {len(self.ids)}")
        content = b"\0".join(self._content(choice) for choice in sorted(self.text))
        self._check(end["sha256"] == hashlib.sha256(content).hexdigest(), "I4: END.sha256 differs")

    def _check(self, holds: bool, offence: str) -> None:
        if not holds:
            self.offences.append(f"{self.rid}: {offence}")


def logs_of(records: Iterable[Stored]) -> dict[str, Log]:
    """The logs by rid."""
    logs: dict[str, Log] = {}
    for seq, subject, payload in records:
        _tenant, rid, kind = subject.split(".")[-3:]
        logs.setdefault(rid, Log(rid)).add(seq, kind == "ctl", payload)
    return logs


def offences(logs: dict[str, Log]) -> list[str]:
    """All that is wrong with finished work: I3, I4, I5, I7, and logs that nobody ended (I1, I2)."""
    unended = [f"{log.rid}: I1: no END" for log in logs.values() if not log.ends]
    return [offence for log in logs.values() for offence in log.offences] + unended
