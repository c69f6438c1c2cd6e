"""Numbers that all processes add to: one message of a counter stream is one addition, and its PubAck tells the sum.

The server adds, so two that add at the same time both count, in one round trip and without a compare-and-set.
"""

from __future__ import annotations

import msgspec

from infra.jetstream import JetStream
from infra.wire import encode_headers
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused


class _Sum(msgspec.Struct):
    val: str = ""


class _Added(msgspec.Struct):
    val: str = ""
    error: msgspec.Raw | None = None


_sum = msgspec.json.Decoder(_Sum)
_added = msgspec.json.Decoder(_Added)


class Counters:
    """The counters of one stream. Every call that waits raises BrokerAway when there is no answer within `timeout_s`:
    then nobody knows whether the addition counted."""

    def __init__(self, js: JetStream, stream: str, *, timeout_s: float) -> None:
        self._js = JetStream(js.bus, timeout_s=timeout_s)
        self._stream = stream

    @property
    def reachable(self) -> bool:
        """Whether it makes sense to ask."""
        return self._js.bus.connected

    async def add(self, subject: str, amount: int) -> int:
        """The sum after `amount`, which may be negative, was added."""
        reply = await self._js.bus.request(subject, headers=_increment(amount), timeout_s=self._js.timeout_s)
        if not reply.payload:
            raise BrokerAway(f"there is no stream {self._stream} now")
        added = _added.decode(reply.payload)
        if added.error is not None:
            raise BrokerRefused(f"a counter did not count: {bytes(added.error).decode()}")
        return int(added.val)

    def add_unheard(self, subject: str, amount: int) -> bool:
        """Adds without waiting. False: not connected, nothing was sent."""
        return self._js.bus.publish(subject, headers=_increment(amount))

    async def read(self, subject: str) -> int:
        """The sum; 0 for a counter that nobody has added to, or not for so long that it was forgotten."""
        stored = await self._js.last(self._stream, subject)
        return 0 if stored is None else int(_sum.decode(stored.payload).val)

    async def forget_all(self) -> int:
        """Every counter of the stream begins anew; how many there were."""
        reply = await self._js.bus.request(
            subjects.js_stream("PURGE", self._stream), timeout_s=self._js.timeout_s
        )
        if not reply.payload:
            raise BrokerAway(f"JetStream does not answer for stream {self._stream}")
        return int(msgspec.json.decode(reply.payload).get("purged", 0))


def _increment(amount: int) -> bytes:
    return encode_headers({"Nats-Incr": f"{amount:+d}"})
