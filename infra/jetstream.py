"""JetStream over the bus, by its raw API:

streams, consumers, stored reads, pulls, acknowledgements, buckets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from infra import wire
from infra.bus import Bus
from infra.consumers import Consumer, Delivered
from infra.stream_states import ConsumerState, StreamState, consumer_state, stream_state
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused, StreamMismatch
from schemas.streams import NS_PER_S, ONLY_AT_BIRTH, ConsumerSpec, StreamSpec

WRONG_LAST = 10071
"""CAS refused: the last sequence is another. Stale: stop or read."""
IN_PROCESS = 10164
"""A replicated stream still works on a message with the same expectation: send the same bytes again."""
ID_IN_PROCESS = 10158
"""A replicated stream still works on a message with the same id, from an earlier try or from somebody else."""
FULL = 10077
"""A limit of the stream was reached; nothing was stored."""
TOO_LARGE = 10054
"""The message is larger than the stream, or the server, takes one."""
SERVICE_UNAVAILABLE = 503
"""Nobody answers for the stream right now (an election, or it does not exist)."""

_STREAM_NOT_FOUND = 10059
_STREAM_EXISTS = 10058
_NO_PEERS = 10005
_NO_META_LEADER = 10008
_CONSUMER_NOT_FOUND = 10014
_MESSAGE_NOT_FOUND = 10037
_NOTHING_TO_DELETE = (10043, 10057)
"""No such sequence (past the end), no message there any more (deleted)."""
_DIRECT_BATCH = 256
"""Messages per direct get: a whole short log in one round trip, a bounded burst for a long one."""


class ApiError(msgspec.Struct, frozen=True):
    """What JetStream says when it refuses."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """JetStream's answer to a publish: stored at `seq`, or `err_code` and why."""

    seq: int = 0
    duplicate: bool = False
    err_code: int = 0
    description: str = ""

    @property
    def stored(self) -> bool:
        """Whether the message is in the stream (now or from an earlier try of the same id)."""
        return self.err_code == 0

    @property
    def last_seq(self) -> int | None:
        """The sequence that a refused CAS names as the last one."""
        tail = self.description.rpartition(": ")[2]
        return int(tail) if self.err_code == WRONG_LAST and tail.isdigit() else None


class Stored(NamedTuple):
    """A message read back from a stream."""

    seq: int
    subject: str
    headers: bytes
    payload: bytes


class _PubAckWire(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class _Message(msgspec.Struct):
    seq: int
    subject: str
    data: bytes = b""
    hdrs: bytes = b""


class _Got(msgspec.Struct):
    message: _Message | None = None
    error: ApiError | None = None


_got = msgspec.json.Decoder(_Got)
_puback = msgspec.json.Decoder(_PubAckWire)
_dict = msgspec.json.Decoder(dict[str, Any])


def decode_puback(headers: bytes, payload: bytes) -> PubAck:
    """The answer to a publish that asked for one; a 503 without body means that no stream took it."""
    if not payload:
        return PubAck(err_code=wire.status_of(headers) or SERVICE_UNAVAILABLE, description="no responders")
    answer = _puback.decode(payload)
    if answer.error is None:
        return PubAck(answer.seq, answer.duplicate)
    return PubAck(err_code=answer.error.err_code or answer.error.code, description=answer.error.description)


def expect_headers(last_seq: int, others: Mapping[str, str] | None = None) -> bytes:
    """CAS: stored only if `last_seq` is the last sequence of the subject published to (0: it has none)."""
    if others:
        return wire.encode_headers({"Nats-Expected-Last-Subject-Sequence": str(last_seq), **others})
    return b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % last_seq


def fence_headers(lease_seq: int, ctl_subject: str) -> bytes:
    """The pair that fences a tok append:

    stored only while `lease_seq` is the last sequence on the ctl subject.
    """
    return (
        b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n"
        b"Nats-Expected-Last-Subject-Sequence-Subject: %b\r\n\r\n" % (lease_seq, ctl_subject.encode())
    )


class JetStream:
    """The calls of the JetStream API that Penstock needs, each with a time-out.

    Every one raises BrokerAway (no answer) and BrokerRefused (an answer outside the protocol).
    """

    def __init__(self, bus: Bus, *, timeout_s: float = 5.0) -> None:
        self.bus = bus
        self.timeout_s = timeout_s

    async def ensure_stream(self, spec: StreamSpec) -> None:
        """Reads the stream first, creates it if it is missing, and refuses one that differs.

        Raises StreamMismatch.
        """
        info = await self._api(subjects.js_stream("INFO", spec.name), allow=(_STREAM_NOT_FOUND,))
        if info is None:
            # Another process may be faster, with another `first_seq`: then its stream is compared.
            created = subjects.js_stream("CREATE", spec.name)
            try:
                info = await self._api(created, spec.config, allow=(_STREAM_EXISTS,))
            except BrokerRefused:
                # While two make it at once both are counted against the storage: then it is there now.
                if not await self.exists(spec.name):
                    raise
            info = info or await self._api(subjects.js_stream("INFO", spec.name))
            assert info is not None
        _compare(f"stream {spec.name}", spec.config, info["config"])

    async def ensure_consumer(self, spec: ConsumerSpec) -> float:
        """Like `ensure_stream`, for a durable consumer; returns how many seconds ago it was made."""
        info = await self._api(
            subjects.js_consumer("INFO", spec.stream, spec.name), allow=(_CONSUMER_NOT_FOUND,)
        )
        if info is None:
            request = {"stream_name": spec.stream, "config": spec.config, "action": "create"}
            info = await self._api(subjects.js_consumer("CREATE", spec.stream, spec.name), request)
            assert info is not None
        _compare(f"consumer {spec.name}", spec.config, info["config"])
        made, asked = (datetime.fromisoformat(info[key]) for key in ("created", "ts"))
        return (asked - made).total_seconds()

    async def publish(
        self, subject: str, payload: bytes, *, headers: bytes = b"", timeout_s: float | None = None
    ) -> PubAck:
        """Publishes and awaits the PubAck. BrokerAway means unknown: it may have been stored."""
        reply = await self.bus.request(
            subject, payload, headers=headers, timeout_s=timeout_s or self.timeout_s
        )
        return decode_puback(reply.headers, reply.payload)

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message on `subject` (wildcards allowed), from the stream leader:

        its "none" can be trusted.
        """
        request = msgspec.json.encode({"last_by_subj": subject})
        reply = await self.bus.request(
            subjects.js_stream("MSG.GET", stream), request, timeout_s=self.timeout_s
        )
        if not reply.payload:
            raise BrokerAway(f"JetStream does not answer for stream {stream}")
        answer = _got.decode(reply.payload)
        if answer.message is not None:
            found = answer.message
            return Stored(found.seq, found.subject, found.hdrs, found.data)
        if answer.error is not None and answer.error.err_code == _MESSAGE_NOT_FOUND:
            return None
        if answer.error is not None and answer.error.err_code in (_STREAM_NOT_FOUND, _NO_META_LEADER):
            # Lost with the broker's memory, until a scheduler makes it again: nobody knows what it would say then.
            raise BrokerAway(f"there is no stream {stream} now, or nobody leads the cluster")
        raise BrokerRefused(f"reading {subject} from {stream}: {answer.error}")

    async def read(
        self, stream: str, subject_filter: str, *, start_seq: int = 1, limit: int | None = None
    ) -> list[Stored]:
        """Messages on `subject_filter` from `start_seq` on, in stream order, by direct get.

        Any replica may answer, so the end of what it knows is not proof that there is no more.
        """
        messages: list[Stored] = []
        while limit is None or len(messages) < limit:
            wanted = _DIRECT_BATCH if limit is None else min(_DIRECT_BATCH, limit - len(messages))
            batch, more = await self.read_batch(stream, subject_filter, start_seq, wanted)
            messages += batch
            if not batch or not more:
                break
            start_seq = batch[-1].seq + 1
        return messages

    async def page(
        self, stream: str, subject_filter: str, *, start_seq: int, bytes_max: int
    ) -> tuple[list[Stored], bool]:
        """Like one step of `read`, for messages that are large: at least one, and no more after `bytes_max`; and
        whether there are more."""
        found, left = await self.read_batch(
            stream, subject_filter, start_seq, _DIRECT_BATCH, bytes_max=bytes_max
        )
        return found, left > 0

    async def purge(self, stream: str, subject_filter: str) -> None:
        """Deletes what `subject_filter` matches."""
        await self._api(subjects.js_stream("PURGE", stream), {"filter": subject_filter})

    async def delete(self, stream: str, seq: int) -> bool:
        """Deletes one message by sequence, delivered or not. False: it was gone already."""
        body = {"seq": seq, "no_erase": True}
        answer = await self._api(subjects.js_stream("MSG.DELETE", stream), body, allow=_NOTHING_TO_DELETE)
        return answer is not None and bool(answer.get("success"))

    async def usage(self, stream: str) -> StreamState:
        """How much of `stream` is taken, and how it stands."""
        info = await self._api(subjects.js_stream("INFO", stream), allow=(_STREAM_NOT_FOUND,))
        if info is None:
            # As in `last`: a scheduler makes it.
            raise BrokerAway(f"there is no stream {stream} now")
        return stream_state(info)

    async def undelivered(self, spec: ConsumerSpec) -> int | None:
        """Messages a consumer has yet to deliver for the first time; None: there is no such consumer."""
        state = await self.consumer_state(spec)
        return None if state is None else state.num_pending

    async def consumer_state(self, spec: ConsumerSpec) -> ConsumerState | None:
        """How a consumer stands; None: there is no such consumer."""
        info = await self._api(
            subjects.js_consumer("INFO", spec.stream, spec.name), allow=(_CONSUMER_NOT_FOUND,)
        )
        return None if info is None else consumer_state(info)

    async def delete_consumer(self, spec: ConsumerSpec) -> None:
        """Deletes a durable consumer, if it is there. What it has not seen settled, the next one delivers again."""
        await self._api(subjects.js_consumer("DELETE", spec.stream, spec.name), allow=(_CONSUMER_NOT_FOUND,))

    async def queue_depth(self, stream: str) -> int:
        """Messages in `stream`."""
        info = await self._api(subjects.js_stream("INFO", stream))
        assert info is not None
        return int(info["state"]["messages"])

    async def bounds(self, stream: str) -> tuple[int, int]:
        """The first and the last sequence of `stream`; an empty one's first is past its last."""
        info = await self._api(subjects.js_stream("INFO", stream))
        assert info is not None
        return int(info["state"]["first_seq"]), int(info["state"]["last_seq"])

    async def exists(self, stream: str) -> bool:
        """Whether `stream` is there."""
        return await self._api(subjects.js_stream("INFO", stream), allow=(_STREAM_NOT_FOUND,)) is not None

    def consume(
        self,
        spec: ConsumerSpec,
        on_delivery: Callable[[Delivered], None],
        on_end: Callable[[int], None],
        on_gone: Callable[[], None] | None = None,
    ) -> Consumer:
        """Deliveries of a durable consumer, on credit.

        `on_end(unused)`: a fetch ended with that much credit unused; `on_gone()`: because there is no such consumer.
        """
        return Consumer(self.bus, spec, on_delivery, on_end, on_gone)

    def ack(self, ack_subject: str) -> bool:
        """Settles a message for good. Not awaited: a lost ack heals at the next delivery."""
        return self.bus.publish(ack_subject, b"+ACK")

    def nak(self, ack_subject: str, delay_s: float = 0.0) -> bool:
        """Gives a message back, to be delivered again after `delay_s`."""
        body = b'-NAK {"delay": %d}' % int(delay_s * NS_PER_S) if delay_s > 0 else b"-NAK"
        return self.bus.publish(ack_subject, body)

    def progress(self, ack_subject: str) -> bool:
        """Restarts the ack wait of a delivery (+WPI)."""
        return self.bus.publish(ack_subject, b"+WPI")

    async def counts_by_subject(self, stream: str, subject_filter: str) -> dict[str, int]:
        """Messages by subject, of those that match."""
        found: dict[str, int] = {}
        while True:
            asked = {"subjects_filter": subject_filter, "offset": len(found)}
            info = await self._api(subjects.js_stream("INFO", stream), asked)
            assert info is not None
            page = info["state"].get("subjects") or {}
            found |= page
            if not page or len(found) >= int(info.get("total", 0)):
                return found

    async def read_batch(
        self, stream: str, subject_filter: str, start_seq: int, batch: int, *, bytes_max: int = 0
    ) -> tuple[list[Stored], int]:
        """One direct get: (messages, how many there are after them). At least one comes, however large."""
        messages: list[Stored] = []
        done: asyncio.Future[int] = self.bus.answer()

        def on_message(_subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
            if done.done():
                return
            if wire.status_of(
                headers
            ):  # 204 ends a batch, 404 says that nothing matches, 503 that nobody is there
                pending = wire.header_value(headers, b"Nats-Num-Pending")
                if wire.status_of(headers) == SERVICE_UNAVAILABLE:
                    done.set_exception(BrokerAway(f"nobody serves stream {stream}"))
                else:
                    done.set_result(0 if pending is None else int(pending))
                return
            seq = wire.header_value(headers, b"Nats-Sequence")
            subject = wire.header_value(headers, b"Nats-Subject")
            assert seq is not None, "a direct get's message names where it is stored"
            assert subject is not None
            messages.append(Stored(int(seq), subject.decode(), headers, payload))

        inbox = self.bus.inbox()
        subscription = self.bus.subscribe(inbox, on_message)
        request = {"seq": start_seq, "batch": batch, "next_by_subj": subject_filter}
        if bytes_max:
            request["max_bytes"] = bytes_max
        try:
            if not self.bus.publish(
                subjects.js_direct_get(stream), msgspec.json.encode(request), reply=inbox
            ):
                raise BrokerAway("not connected")
            async with asyncio.timeout(self.timeout_s):
                return messages, await done
        except TimeoutError:
            raise BrokerAway(f"no end of a direct get from {stream} within {self.timeout_s} s") from None
        finally:
            subscription.close()
            done.cancel()

    async def _api(
        self, subject: str, body: dict[str, Any] | None = None, *, allow: tuple[int, ...] = ()
    ) -> dict[str, Any] | None:
        """One call of the JetStream API; None if it failed with an error code of `allow`."""
        payload = msgspec.json.encode(body) if body is not None else b""
        reply = await self.bus.request(subject, payload, timeout_s=self.timeout_s)
        if not reply.payload:
            raise BrokerAway(f"JetStream does not answer on {subject}")
        answer = _dict.decode(reply.payload)
        error = answer.get("error")
        if error is None:
            return answer
        if error.get("err_code") in allow:
            return None
        is_offline = error.get("err_code") == _NO_PEERS and "offline" in error.get("description", "")
        if is_offline or error.get("err_code") == _NO_META_LEADER:
            raise BrokerAway(f"not all nodes of the cluster are there: {error['description']}")
        raise BrokerRefused(f"{subject}: {error.get('description')} ({error.get('err_code')})")


def _compare(what: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key, value in ours.items():
        if key not in ONLY_AT_BIRTH and theirs.get(key) != value:
            raise StreamMismatch(
                f"{what}: {key} is {theirs.get(key)!r} on the server, {value!r} in the settings"
            )
