"""An independent witness: what the broker stored in REQUESTS and OUTPUT, and what left REQUESTS when.

It reads both streams by sequence, by direct gets, over connections of its own: nothing that a reconnect, a broker that
starts again or a new leader could make it forget, and no consumer whose state could be lost. What its lines prove:

- `Stored` of OUTPUT: a replica has it, at this sequence and at this time of the broker. OUTPUT keeps what it has for
  `result_ttl_s`, so the reader is late at worst and misses nothing; `finish` reads up to the leader's last sequence.
- `Stored` of REQUESTS: the same. A message leaves this stream when it is settled, so one that lives for less than a
  pause of the reader, or while no node answers the tap, is seen by nobody: sequences leave no holes, so each such
  message is counted in a `Missed`. What becomes of it is still to be seen in OUTPUT.
- `Removed`: the leader says that the message is not there, twice. A leader that has been deposed and does not know it
  may say so of what it has never seen: unless an END is known, this is told when it has been so for `DOUBT_S`.
- `asked_at` of it: when the ack, or the call that deletes, came by. Acks are messages that anybody may listen to.
  Nothing is heard while the tap has no connection ("unseen"), and an ack that was heard need not have arrived.

It does not listen where requests are published: with somebody there, a publisher would not be told at once that no
stream takes its request, and the system under test would behave otherwise than without a witness.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import datetime

import msgspec

from chaos.real.history import Line, Missed, Removed, Stored
from infra import jetstream, wire
from infra.bus import Bus
from infra.jetstream import JetStream
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.output import End, decode_ctl
from schemas.streams import OUTPUT, REQUESTS

REQUESTS_PAUSE_S = 0.01
"""A request lives for some ten milliseconds at least: lease, tokens and END are round trips."""

OUTPUT_PAUSE_S = 0.05
LOOK_PAUSE_S = 0.2
AWAY_PAUSE_S = 0.1
CALL_TIMEOUT_S = 0.5
"""A node that is paused or cut off says nothing; another one is asked then."""

DOUBT_S = 15.0
"""A leader that has lost its majority knows it after some ten seconds."""

FINISH_TIMEOUT_S = 60.0
BATCH = 256


class Tap:
    """Writes lines by `tell` from `start` on until `finish` has returned."""

    def __init__(self, buses: list[Bus], tell: Callable[[Line], None]) -> None:
        self._buses = buses
        self._nodes = [JetStream(bus, timeout_s=CALL_TIMEOUT_S) for bus in buses]
        self._tell = tell
        self._next = {OUTPUT: 1}
        self._queued: dict[int, str] = {}
        self._asked: dict[int, tuple[str, float]] = {}
        self._gone_at: dict[int, float] = {}
        self._ended: set[tuple[str, str]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def connect(
        cls, nats_url: str, tell: Callable[[Line], None], fail: Callable[[Exception], None]
    ) -> Tap:
        """A tap with a connection to each of the nodes, none of which may lead over links that faults are put on."""
        urls = nats_url.split(",")
        return cls([await Bus.connect(url, name="tap", fail=fail) for url in urls], tell)

    @property
    def _js(self) -> JetStream:
        """The node that answered last."""
        return self._nodes[0]

    def start(self) -> None:
        """Begins to listen and to read. The streams may come later."""
        for bus in self._buses:
            for acks in subjects.js_acks(REQUESTS, "*"):
                bus.subscribe(acks, self._on_ack)
            bus.subscribe(subjects.js_stream("MSG.DELETE", REQUESTS), self._on_delete)
        for read, pause_s in (
            (self._read_requests, REQUESTS_PAUSE_S),
            (self._read_output, OUTPUT_PAUSE_S),
            (self._look_for_removed, LOOK_PAUSE_S),
        ):
            self._tasks.append(asyncio.create_task(self._forever(read, pause_s), name=f"tap {read.__name__}"))

    async def finish(self) -> None:
        """Returns when everything that is stored has been told, and closes. Raises what the readers died of, and
        TimeoutError where the broker does not answer for long."""
        async with asyncio.timeout(FINISH_TIMEOUT_S):
            await self._until_read()
        for task in self._tasks:
            task.cancel()
        for died in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(died, Exception):
                raise died
        for bus in self._buses:
            await bus.close()

    async def _until_read(self) -> None:
        for stream in (REQUESTS, OUTPUT):
            while not await self._persistent(lambda stream=stream: self._is_read(stream)):  # type: ignore[misc]
                await asyncio.sleep(LOOK_PAUSE_S)
        for _ in range(2):  # what has gone is told at the second look
            await self._persistent(self._look_for_removed)
            await asyncio.sleep(LOOK_PAUSE_S)

    async def _is_read(self, stream: str) -> bool:
        """Whether everything that is there has been told; what has gone unseen will never be."""
        first, last = await self._js.bounds(stream)
        due = self._next.get(stream, first)
        if first > due:
            if stream == REQUESTS or due > 1:  # OUTPUT does not begin at 1
                self._tell(Missed(time.time(), stream, due, first - 1))
            due = self._next[stream] = first
        return due > last

    async def _forever(self, read: Callable[[], Coroutine[None, None, bool]], pause_s: float) -> None:
        while True:
            if not await self._persistent(read):
                await asyncio.sleep(pause_s)

    async def _persistent(self, read: Callable[[], Coroutine[None, None, bool]]) -> bool:
        """One that got an answer, of whichever node."""
        while True:
            asked = self._js
            try:
                return await read()
            except (BrokerAway, BrokerRefused):
                if asked is self._js:  # another reader may have turned away from it meanwhile
                    self._nodes.append(self._nodes.pop(0))
                await asyncio.sleep(AWAY_PAUSE_S)

    async def _read_requests(self) -> bool:
        """Whether there is more to read."""
        if REQUESTS not in self._next:
            first, _ = await self._js.bounds(REQUESTS)
            self._next[REQUESTS] = max(1, first)  # what had gone before is nobody's miss
        messages, left = await self._batch(REQUESTS, subjects.REQUESTS_ALL)
        for message in messages:
            due = self._next[REQUESTS]
            if message.seq > due:
                self._tell(Missed(time.time(), REQUESTS, due, message.seq - 1))
            for seq in [seq for seq, subject in self._queued.items() if subject == message.subject]:
                self._removed(seq, time.time())  # there is one message of a subject at most
            self._queued[message.seq] = message.subject
            self._stored(REQUESTS, message)
        return left

    async def _read_output(self) -> bool:
        messages, left = await self._batch(OUTPUT, subjects.OUTPUT_ALL)
        for message in messages:
            self._stored(OUTPUT, message)
            if subjects.is_ctl(message.subject) and _is_end(message.payload):
                tenant, rid = message.subject.split(".")[-3:-1]
                self._ended.add((tenant, rid))
        return left

    async def _batch(self, stream: str, subject_filter: str) -> tuple[list[jetstream.Stored], bool]:
        found, left = await self._js.read_batch(stream, subject_filter, self._next[stream], BATCH)
        return found, left > 0

    def _stored(self, stream: str, message: jetstream.Stored) -> None:
        told = wire.parse_headers(message.headers)
        stamp = told.get("Nats-Time-Stamp")
        stored_at = 0.0 if stamp is None else msgspec.convert(stamp, datetime).timestamp()
        own = {name: value for name, value in told.items() if not name.startswith("Nats-")}
        self._next[stream] = message.seq + 1
        record = _as_json(message.payload)
        self._tell(Stored(time.time(), stream, message.seq, message.subject, own, record, stored_at))

    async def _look_for_removed(self) -> bool:
        if not self._queued:
            return False
        _, last = await self._js.bounds(REQUESTS)
        there = await self._js.counts_by_subject(REQUESTS, subjects.REQUESTS_ALL)
        now = time.time()
        for seq, subject in list(self._queued.items()):
            if subject in there or seq > last:
                self._gone_at.pop(seq, None)
            elif seq not in self._gone_at:
                self._gone_at[seq] = now
            elif self._is_ended(subject) or now - self._gone_at[seq] > DOUBT_S:
                self._removed(seq, self._gone_at[seq])
        passed = [seq for seq in self._asked if seq < self._next[REQUESTS] and seq not in self._queued]
        for seq in passed:
            del self._asked[seq]
        return False

    def _is_ended(self, subject: str) -> bool:
        named = subjects.parse_request(subject)
        return named is None or (named.tenant, named.rid) in self._ended

    def _removed(self, seq: int, gone_at: float) -> None:
        del self._queued[seq]
        self._gone_at.pop(seq, None)
        how, asked_at = self._asked.pop(seq, ("unseen", 0.0))
        self._tell(Removed(time.time(), REQUESTS, seq, how, asked_at, gone_at))

    def _on_ack(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        delivery = subjects.parse_ack(subject)
        if delivery is not None and payload in (b"", b"+ACK"):
            self._on_asked(delivery.stream_seq, "acked")

    def _on_delete(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        self._on_asked(int(msgspec.json.decode(payload)["seq"]), "deleted")

    def _on_asked(self, seq: int, how: str) -> None:
        if seq in self._queued or seq >= self._next.get(REQUESTS, 0):
            self._asked.setdefault(seq, (how, time.time()))


def _is_end(payload: bytes) -> bool:
    try:
        return isinstance(decode_ctl(payload), End)
    except msgspec.DecodeError:
        return False


def _as_json(payload: bytes) -> msgspec.Raw:
    """The bytes themselves, or as a JSON text what is no JSON."""
    try:
        return msgspec.Raw(bytes(msgspec.json.decode(payload, type=msgspec.Raw)))
    except msgspec.DecodeError:
        return msgspec.Raw(msgspec.json.encode(payload.decode(errors="replace")))
