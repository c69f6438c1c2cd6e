"""A client's reading of one finished log, with the product's own relay as the transition function.

Live records come in stored order or are lost. A replay brings what any prefix of the log has from its start on, because
a replica may lag behind the live records, and they behind it; meanwhile live records go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from edge.relay import Broken, Ended, Output, Relay, Replay, Tokens
from schemas.output import CtlRecord, decode_tok, encode
from schemas.output import Tok as ProductTok
from tests.model.explore import Step
from tests.model.records import End, Lease, Log, Record, Tok, entries_of, ids_of, text_of

_NOW = 0.0


class Reading(NamedTuple):
    """`cursor` counts live records that have come or are lost, `replay_from` is the first sequence of the replay under
    way (0: none). `relay` holds the relay's attributes."""

    cursor: int
    replay_from: int
    shown: str
    outcome: Literal["", "ended", "broken"]
    relay: tuple[Any, ...]


class Reader:
    """All readings of `log` by a relay of class `relay`."""

    def __init__(self, log: Log, relay: type[Relay] = Relay) -> None:
        self._entries = entries_of(log)
        self._text = text_of(ids_of(log))
        self._relay = relay
        self._names = list(vars(relay(_NOW)))

    @property
    def initial(self) -> Reading:
        """A reader that came before the first record."""
        return Reading(0, 0, "", "", self._saved(self._relay(_NOW)))

    def steps(self, reading: Reading) -> Iterator[Step[Reading]]:
        """All that can happen next."""
        if reading.outcome:
            return
        cursor, entries = reading.cursor, self._entries
        if cursor < len(entries):
            record = entries[cursor].record
            passed, relay = reading._replace(cursor=cursor + 1), self._restored(reading)
            yield Step(f"live {cursor + 1}", self._after(passed, relay, _heard(relay, record)))
            yield Step(f"live {cursor + 1} lost", passed, True)
        relay = self._restored(reading)
        yield Step("reconnected", self._after(reading, relay, relay.missed()), True)
        relay = self._restored(reading)
        if relay.paused:
            yield Step("the client has caught up", self._after(reading, relay, relay.resume()))
        else:
            relay.pause()
            yield Step("the client is slow", self._after(reading, relay, []), True)
        if reading.replay_from:
            yield from self._replay(reading)
        else:
            relay = self._restored(reading)
            yield Step("silence", self._after(reading, relay, relay.tick(_NOW)))

    def violation(self, reading: Reading) -> str | None:
        """What a client must never see."""
        if not self._text.startswith(reading.shown):
            return "I6: what was shown is no prefix of the text"
        if reading.outcome == "ended" and reading.shown != self._text:
            return "I6: the reader closed before it had shown all"
        return "I6: the log was called broken" if reading.outcome == "broken" else None

    def is_done(self, reading: Reading) -> bool:
        """The client has seen the end."""
        return reading.outcome == "ended"

    def _replay(self, reading: Reading) -> Iterator[Step[Reading]]:
        start, size = reading.replay_from, len(self._entries)
        over = reading._replace(replay_from=0)
        for upto in range(start - 1, size + 1):
            relay = self._restored(reading)
            outputs: list[Output] = []
            for entry in self._entries[start - 1 : upto]:
                outputs += relay.stored(entry)
            outputs += relay.replay_done(_NOW)
            yield Step(f"replay of {start}..{upto}", self._after(over, relay, outputs), upto < size)
        relay = self._restored(reading)
        yield Step("the replay fails", self._after(over, relay, relay.replay_failed(_NOW)), True)

    def _after(self, reading: Reading, relay: Relay, outputs: list[Output]) -> Reading:
        shown, outcome, replay_from = reading.shown, reading.outcome, reading.replay_from
        for output in outputs:
            match output:
                case Tokens():
                    shown += "".join([delta.text for delta in output.deltas])
                case Ended():
                    outcome = "ended"
                case Broken():
                    outcome = "broken"
                case Replay():
                    replay_from = output.start_seq
        return Reading(reading.cursor, replay_from, shown, outcome, self._saved(relay))

    def _saved(self, relay: Relay) -> tuple[Any, ...]:
        # Silence may last for any time here: when a replay is due makes no difference.
        late = tuple(encode(tok) for tok in relay._late)  # records hold lists, a state must be hashable
        values = vars(relay) | {"_due": _NOW, "_replays": 0, "_replayed_from": 0, "_late": late}
        return tuple([values[name] for name in self._names])

    def _restored(self, reading: Reading) -> Relay:
        relay = self._relay.__new__(self._relay)
        vars(relay).update(zip(self._names, reading.relay, strict=True))
        relay._late = [decode_tok(data) for data in vars(relay)["_late"]]
        return relay


def as_read(log: Log) -> Log:
    """One log for all that a reader cannot tell apart: a nonce is the place of its lease, a token its offset. (That
    a log's tokens are one text is what the exploration of the protocol has shown.)"""
    places = {record.nonce: seq for seq, record in enumerate(log, 1) if isinstance(record, Lease)}
    return tuple(_as_read(record, places.get(record.nonce, 0)) for record in log)


def _as_read(record: Record, place: int) -> Record:
    match record:
        case Lease():
            return Lease(place, 1, "first")
        case Tok(off=off, ids=ids):
            return Tok(place, off, tuple(range(off, off + len(ids))))
        case End(n=n, tail=tail) if n is not None:
            return End(place, n, tuple(range(n - len(tail), n)), record.status)
        case _:
            return record._replace(nonce=place)


def _heard(relay: Relay, record: CtlRecord | ProductTok) -> list[Output]:
    if isinstance(record, ProductTok):
        return relay.live_tok(record, _NOW)
    return relay.live_ctl(record, _NOW)
