"""One client's reading of one output log: live records folded by offset, the log itself where that is not enough. Pure.

Live records (RePublish) are stored records in stream order, but any of them may be lost. So:

- a live record is folded if it starts where the text so far ends, under the lease that is already known; a repeat is
  dropped; anything else (a gap, a new lease) is left to the log;
- the log is read again after a gap, a reconnect and a silence, from the last sequence read of it;
- an END is the last word only when everything before it is there. One that carries `n` proves that by itself, one
  without is waited for in the log, which has all records before it;
- records of the log come in its own order, so there a hole, or a newer lease that starts below what was already passed
  on, means that the log was lost. What a client has seen is never taken back: the stream breaks instead.

`now` is monotonic seconds.
"""

from __future__ import annotations

import msgspec

from schemas.log import Entry
from schemas.output import CtlRecord, Delta, End, Tail, Tok

REPLAY_PAUSES_S = (0.05, 0.15, 0.6, 2.0)
"""From the start, or from a replay that did not bring what is known to be missing: reads at 50, 200 and 800 ms and
every 2 s. The first ones cover interest that has not spread through a cluster yet, the last one silent loss."""

LATE_MAX = 64
"""Live records kept while a replay runs: at 20 ms per token, more than a second of them. What does not fit is read."""

_STEADY = len(REPLAY_PAUSES_S) - 1


class Tokens(msgspec.Struct, frozen=True, gc=False):
    """Text of one record. `offset` counts all tokens of the request up to its end; `first` is the index of its first
    delta among all that end there (a tail that brings text and no token ends where the record before it did)."""

    offset: int
    deltas: list[Delta]
    first: int = 0


class Ended(msgspec.Struct, frozen=True):
    """The request ended, `offset` tokens were passed on. Nothing follows."""

    end: End
    offset: int


class Broken(msgspec.Struct, frozen=True):
    """The log cannot be read on. Nothing follows."""

    message: str


class Replay(msgspec.Struct, frozen=True):
    """Read the log from `start_seq` on: `stored` for each entry, then `replay_done`, or else `replay_failed`."""

    start_seq: int


Output = Tokens | Ended | Broken | Replay


class Relay:
    """`whole`: nobody sees the text before its end, so an END that brings all of it needs nothing else."""

    def __init__(self, now: float, *, whole: bool = False) -> None:
        self._whole = whole
        self._have = 0
        self._deltas = 0
        self._lease = 0
        self._begun = False
        self._read_seq = 0
        # What live records have shown to be in the log, and whether something unseen may be there.
        self._known_offset = 0
        self._known_lease = 0
        self._end_seen = False
        self._unread = False
        self._over = False
        self._paused = False
        self._replaying = False
        self._replayed_from = 0
        self._late: list[Tok] = []
        self._replays = 1
        self._due = now + REPLAY_PAUSES_S[0]

    @property
    def over(self) -> bool:
        """Whether the last output has been given."""
        return self._over

    @property
    def begun(self) -> bool:
        """Whether an attempt has shown itself: the request is not just queued any more."""
        return self._begun or self._lease > 0

    @property
    def paused(self) -> bool:
        """Whether nothing is taken in because the client reads too slowly."""
        return self._paused

    def live_tok(self, tok: Tok, now: float) -> list[Output]:
        """A tok record came over the live subject."""
        if self._is_next(tok):
            return [self._fold_live(tok, now)]
        if self._over or (tok.lease <= self._lease and tok.off + len(tok.ids) <= self._have):
            return []
        if tok.off == 0 and self._have == 0 and self._lease == 0 and not self._paused:
            return [self._fold_live(tok, now)]
        was_behind = self._behind()
        if self._replaying and len(self._late) < LATE_MAX:
            self._late.append(tok)
        self._known_offset = max(self._known_offset, tok.off + len(tok.ids))
        self._known_lease = max(self._known_lease, tok.lease)
        return [] if was_behind else self._catch_up()

    def live_ctl(self, record: CtlRecord, now: float) -> list[Output]:
        """A ctl record came over the live subject. Any but END has nothing to pass on, but shows that live records
        arrive."""
        if self._over:
            return []
        if not isinstance(record, End):
            self._begun = True
            self._alive(now)
            return []
        if not self._paused and self._proves_itself(record):
            return self._close(record)
        was_behind = self._behind()
        self._end_seen = True
        return [] if was_behind else self._catch_up()

    def missed(self) -> list[Output]:
        """Live records may have been lost: after a reconnect, or one that could not be read."""
        if self._over:
            return []
        self._unread = True
        return self._catch_up()

    def stored(self, entry: Entry) -> list[Output]:
        """An entry of the log, in the log's order."""
        if self._over:
            return []
        if self._paused:
            self._unread = True
            return []
        seq, record = entry
        if seq <= self._read_seq:
            return []
        self._read_seq = seq
        match record:
            case Tok():
                return self._fold_stored(record)
            case End():
                return self._close(record)
            case _:
                self._begun = True
                return []

    def replay_done(self, now: float) -> list[Output]:
        """All entries of the replay were handed in."""
        outputs: list[Output] = [self._fold(tok) for tok in self._take_late() if self._is_next(tok)]
        self._end_replay(now)
        # Set while the replay ran: what it read may be from before.
        is_stale = self._unread and not self._paused and not self._over
        return [*outputs, *self._start_replay()] if is_stale else outputs

    def replay_failed(self, now: float) -> list[Output]:
        """The log could not be read; it is tried again when due."""
        self._unread = True
        self._take_late()
        self._end_replay(now)
        return []

    def unreadable(self) -> list[Output]:
        """The log holds something that is no record."""
        return self._break("a record of the output log cannot be read")

    def pause(self) -> None:
        """The client reads too slowly: take in nothing more until `resume`; the log keeps it."""
        self._paused = True

    def resume(self) -> list[Output]:
        """The client has read everything it was given."""
        self._paused = False
        return self._catch_up() if self._behind() and not self._over else []

    def tick(self, now: float) -> list[Output]:
        """`next_deadline` has come."""
        deadline = self.next_deadline()
        return self._start_replay() if deadline is not None and now >= deadline else []

    def next_deadline(self) -> float | None:
        """When to `tick`; None while a replay runs, the client is slow, or all is over. It only moves later, except
        after a call that returned a Replay."""
        return None if self._over or self._paused or self._replaying else self._due

    def check(self) -> None:
        """Asserts what must always hold."""
        assert min(self._have, self._lease, self._read_seq) >= 0
        assert 0 <= self._replays <= _STEADY
        assert len(self._late) <= LATE_MAX
        assert self._replaying or not self._late
        assert self._have == 0 or self._lease > 0 or self._over, "text has a lease it was made under"

    def _alive(self, now: float) -> None:
        if not self._behind():
            self._replays = _STEADY
            self._due = now + REPLAY_PAUSES_S[_STEADY]

    def _behind(self) -> bool:
        return (
            self._known_offset > self._have
            or self._known_lease > self._lease
            or self._end_seen
            or self._unread
        )

    def _catch_up(self) -> list[Output]:
        self._replays = 0
        return [] if self._paused or self._replaying else self._start_replay()

    def _start_replay(self) -> list[Output]:
        self._replaying = True
        self._replayed_from = self._have
        self._unread = False
        return [Replay(self._read_seq + 1)]

    def _is_next(self, tok: Tok) -> bool:
        return tok.off == self._have and tok.lease == self._lease and not self._paused and not self._over

    def _take_late(self) -> list[Tok]:
        late, self._late = self._late, []
        return late

    def _end_replay(self, now: float) -> None:
        assert self._replaying
        self._replaying = False
        if self._lease > 0 and not self._behind():
            self._replays = _STEADY
        elif self._have > self._replayed_from:
            self._replays = 0
        self._due = now + REPLAY_PAUSES_S[self._replays]
        self._replays = min(self._replays + 1, _STEADY)

    def _fold_live(self, tok: Tok, now: float) -> Tokens:
        folded = self._fold(tok)
        self._alive(now)
        return folded

    def _fold(self, record: Tok) -> Tokens:
        self._lease = record.lease
        self._have += len(record.ids)
        self._deltas = len(record.deltas)
        return Tokens(self._have, record.deltas)

    def _fold_stored(self, tok: Tok) -> list[Output]:
        if tok.off > self._have:
            return self._break(f"the output log has a hole at token {self._have}")
        if tok.off == self._have:
            return [self._fold(tok)]
        if tok.lease > self._lease and self._lease > 0:
            return self._break(f"the output log was lost and begun again at token {tok.off}")
        return []

    def _proves_itself(self, end: End) -> bool:
        """Whether an END tells by itself that all text before it is here."""
        if self._whole and end.text is not None:
            return True
        if end.n is None or self._known_lease > self._lease:
            return False
        # Under another lease than that of the text so far, the log may have been lost and begun again in between.
        is_same_text = self._have == 0 or end.lease in (0, self._lease)
        return is_same_text and self._have >= end.n - _length(end.tail)

    def _close(self, end: End) -> list[Output]:
        outputs: list[Output] = []
        if end.n is not None and not (self._whole and end.text is not None):
            if self._have != end.n - _length(end.tail):
                return self._break(f"the output log ends at token {end.n}, not at {self._have}")
            if end.tail is not None:
                first = 0 if end.tail.ids else self._deltas
                self._have = end.n
                outputs.append(Tokens(self._have, end.tail.deltas, first))
        self._over = True
        return [*outputs, Ended(end, self._have)]

    def _break(self, message: str) -> list[Output]:
        self._over = True
        return [Broken(message)]


def _length(tail: Tail | None) -> int:
    return 0 if tail is None else len(tail.ids)
