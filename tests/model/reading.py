"""A client's reading of one finished log, with the product's own relay as the transition function.

Live records come in stored order or are lost. A replay brings what any prefix of the log has from its start on, because
a replica may lag behind the live records, and they behind it; meanwhile live records go on. Of a log that was lost and
begun again, a replay brings what was there before the loss or what was stored after it, never both; of one whose first
records have aged out, it may lack these.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from edge.relay import Broken, Ended, Output, Relay, Replay, Tokens
from schemas import output as product
from schemas.log import Entry, fold
from tests.model.explore import Step
from tests.model.records import End, Lease, Log, Tok

_NOW = 0.0
_TIMELESS = {"_due": _NOW, "_replays": 0, "_replayed_from": 0}
"""Silence may last for any time here: when a replay is due makes no difference."""


class Piece(NamedTuple):
    """Tokens from `off` on, under the lease of this rank: 1 is the oldest."""

    lease: int
    off: int
    ids: tuple[int, ...]


class Last(NamedTuple):
    """END, with what only an owner can say; the lease of others is 0."""

    lease: int
    n: int | None
    tail: tuple[int, ...]


class History(NamedTuple):
    """All that was ever stored, as a reader sees it. The first `lost` records were lost when the rest was stored, and
    the first `gone` are there no more in the end."""

    records: tuple[Piece | Last, ...]
    lost: int
    gone: int


def history_of(log: Log) -> History:
    """One history for all logs that a reader cannot tell apart: leases and tokens are numbered as they come, and ctl
    records other than END are left out, because they only tell a relay that time need not be waited out."""
    leases = {0: 0}
    tokens: dict[int, int] = {}
    records: list[Piece | Last] = []
    sizes = [0]
    for record in log.records:
        match record:
            case Lease(nonce=nonce):
                leases[nonce] = len(leases)
            case Tok(nonce=nonce, off=off, ids=ids):
                records.append(Piece(leases[nonce], off, _numbered(ids, tokens)))
            case End(nonce=nonce, n=n, tail=tail):
                records.append(Last(leases[nonce if n is not None else 0], n, _numbered(tail, tokens)))
            case _:
                pass
        sizes.append(len(records))
    ranks = sorted({0, *(record.lease for record in records)})
    ranked = tuple([record._replace(lease=ranks.index(record.lease)) for record in records])
    return History(ranked, sizes[log.gone_before], sizes[log.gone])


class Reading(NamedTuple):
    """`cursor` counts live records that have come or are lost, `replay_from` is the first sequence of the replay under
    way (0: none), `age` says how much of what is gone replays have shown to be gone. `relay` numbers its state."""

    cursor: int
    replay_from: int
    age: int
    shown: str
    outcome: Literal["", "ended", "broken"]
    relay: int


Call = tuple[Literal["live", "missed", "pause", "resume", "silence", "replay", "fail"], int, int]
"""What the relay is told: of the record at this place, or of a replay from one place up to another."""


class Effect(NamedTuple):
    """What came of a call: the relay's state after it, and what it put out."""

    relay: int
    text: str
    outcome: Literal["", "ended", "broken"]
    replay_from: int


class Reader:
    """All readings of a history by a relay of class `relay`.

    A relay has far fewer states than there are readings: what each of its states does at a call is found out once.
    """

    def __init__(self, history: History, relay: type[Relay] = Relay) -> None:
        self._entries = [Entry(seq, _in_product(record)) for seq, record in enumerate(history.records, 1)]
        self._places = {id(entry.record): place for place, entry in enumerate(self._entries)}
        size, lost, gone = len(self._entries), history.lost, history.gone
        # What a replay may find, from when on and up to where: before a loss, after it, and after ageing.
        self._ages = [(0, 0, lost)] * (lost > 0) + [(1, lost, size)] + [(2, gone, size)] * (gone > lost)
        self._old = _text(self._entries[:lost])
        self._text = _text(self._entries[lost:])
        self._lost, self._is_incomplete = lost, gone > 0
        self._was_over = any(isinstance(record, Last) for record in history.records[:lost])
        last = history.records[-1]
        self._is_open = isinstance(last, Last) and last.n is None
        self._class = relay
        self._names = tuple(vars(relay(_NOW)))
        self._attributes = attrgetter(*self._names)
        self._relays: list[tuple[Any, ...]] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._effects: dict[tuple[int, Call], Effect] = {}

    @property
    def initial(self) -> Reading:
        """A reader that came before the first record."""
        return Reading(0, 0, self._ages[0][0], "", "", self._saved(self._class(_NOW)))

    def steps(self, reading: Reading) -> Iterator[Step[Reading]]:
        """All that can happen next."""
        if reading.outcome:
            return
        cursor = reading.cursor
        if cursor < len(self._entries):
            passed = reading._replace(cursor=cursor + 1)
            yield Step("live", self._told(passed, ("live", cursor, 0)))
            yield Step("live, lost", passed, True)
        yield Step("reconnected", self._told(reading, ("missed", 0, 0)), True)
        yield Step("the client has caught up", self._told(reading, ("resume", 0, 0)))
        yield Step("the client is slow", self._told(reading, ("pause", 0, 0)), True)
        if reading.replay_from:
            yield from self._replay(reading)
        else:
            yield Step("silence", self._told(reading, ("silence", 0, 0)))

    def violation(self, reading: Reading) -> str | None:
        """What a client must never see."""
        shown, outcome = reading.shown, reading.outcome
        is_old = self._lost > 0 and self._old.startswith(shown)
        is_new = self._text.startswith(shown)
        if not is_old and not is_new:
            return "I6: what was shown is no prefix of the text"
        if outcome == "broken" and not self._is_incomplete:
            return "I6: the log was called broken"
        if outcome == "ended" and shown != self._text:
            # An END without n of a log that is incomplete: the client learns that it got no whole answer. And the first
            # END of a request that was begun again was as good as the second.
            is_right = (self._is_incomplete and self._is_open) or (self._was_over and shown == self._old)
            return None if is_right else "I6: the reader closed after something else than the text"
        return None

    def is_done(self, reading: Reading) -> bool:
        """The client has seen the end, or has been told that the log cannot be read on."""
        return bool(reading.outcome)

    def _replay(self, reading: Reading) -> Iterator[Step[Reading]]:
        # Who hears of records from after a loss asks a stream that has lost the ones from before.
        age_min = max(reading.age, int(reading.cursor > self._lost))
        for age, gone, size in self._ages:
            if age < age_min:
                continue
            start = max(reading.replay_from - 1, gone)
            over = reading._replace(replay_from=0, age=age)
            for upto in range(start, max(start, size) + 1):
                is_partial = upto < len(self._entries)
                yield Step("replayed", self._told(over, ("replay", start, upto)), is_partial)
        failed = reading._replace(replay_from=0)
        yield Step("the replay fails", self._told(failed, ("fail", 0, 0)), True)

    def _told(self, reading: Reading, call: Call) -> Reading:
        cursor, replay_from, age, shown, _, number = reading
        effect = self._effects.get((number, call))
        if effect is None:
            effect = self._effects[number, call] = self._effect(number, call)
        relay, text, outcome, started_from = effect
        return Reading(cursor, started_from or replay_from, age, shown + text, outcome, relay)

    def _effect(self, number: int, call: Call) -> Effect:
        relay, text, replay_from = self._restored(number), "", 0
        outcome: Literal["", "ended", "broken"] = ""
        for output in self._outputs(relay, call):
            match output:
                case Tokens():
                    text += "".join([delta.text for delta in output.deltas])
                case Ended():
                    outcome = "ended"
                case Broken():
                    outcome = "broken"
                case Replay():
                    replay_from = output.start_seq
        return Effect(self._saved(relay), text, outcome, replay_from)

    def _outputs(self, relay: Relay, call: Call) -> list[Output]:
        kind, start, upto = call
        match kind:
            case "live":
                record = self._entries[start].record
                if isinstance(record, product.Tok):
                    return relay.live_tok(record, _NOW)
                return relay.live_ctl(record, _NOW)
            case "missed":
                return relay.missed()
            case "pause":
                relay.pause()
                return []
            case "resume":
                return relay.resume() if relay.paused else []
            case "silence":
                return relay.tick(_NOW)
            case "replay":
                stored = [relay.stored(entry) for entry in self._entries[start:upto]]
                return [*chain.from_iterable(stored), *relay.replay_done(_NOW)]
            case "fail":
                return relay.replay_failed(_NOW)

    def _saved(self, relay: Relay) -> int:
        """The number of the state of a relay that is not needed any more."""
        values = vars(relay)
        values.update(_TIMELESS, _late=tuple([self._places[id(tok)] for tok in relay._late]))
        attributes: tuple[Any, ...] = self._attributes(relay)
        number = self._numbers.setdefault(attributes, len(self._relays))
        if number == len(self._relays):
            self._relays.append(attributes)
        return number

    def _restored(self, number: int) -> Relay:
        relay = self._class.__new__(self._class)
        values = vars(relay)
        values.update(zip(self._names, self._relays[number], strict=True))
        values["_late"] = [self._entries[place].record for place in values["_late"]]
        return relay


def _numbered(ids: tuple[int, ...], numbers: dict[int, int]) -> tuple[int, ...]:
    return tuple([numbers.setdefault(token, len(numbers)) for token in ids])


def _text(entries: list[Entry]) -> str:
    return "".join(fold(entries).texts)


def _in_product(record: Piece | Last) -> product.CtlRecord | product.Tok:
    if isinstance(record, Piece):
        return product.Tok(record.lease, record.off, list(record.ids), _deltas(record.ids))
    lease, n, ids = record
    if n is None:
        return product.End(status="cancelled")
    tail = product.Tail(n - len(ids), list(ids), _deltas(ids)) if ids else None
    return product.End(status="ok", lease=lease, n=n, tail=tail)


def _deltas(ids: tuple[int, ...]) -> list[product.Delta]:
    return [product.Delta("".join([f"{token} " for token in ids]))]
