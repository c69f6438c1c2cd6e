"""Deliveries of a durable consumer: fetches go out, messages and the ends of fetches come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from infra import wire
from infra.bus import Bus, Subscription
from schemas import subjects
from schemas.streams import NS_PER_S, ConsumerSpec

_NO_RESPONDERS = 503
_CONFLICT = 409
_DELETED = b"Consumer Deleted"
"""How a fetch ends whose consumer is deleted under it."""
_PULL_EXPIRES_MIN_NS = 1_000_000


class Delivered(NamedTuple):
    """A message a consumer delivered; `ack` is the subject that settles this delivery."""

    subject: str
    ack: str
    headers: bytes
    payload: bytes


class Consumer:
    """A durable consumer this process pulls from."""

    def __init__(
        self,
        bus: Bus,
        spec: ConsumerSpec,
        on_delivery: Callable[[Delivered], None],
        on_end: Callable[[int], None],
        on_gone: Callable[[], None] | None,
    ) -> None:
        self.spec = spec
        self._bus = bus
        self._on_delivery = on_delivery
        self._on_end = on_end
        self._on_gone = on_gone
        self._inbox = bus.inbox()
        self._next = subjects.js_consumer("MSG.NEXT", spec.stream, spec.name)
        self._subscription: Subscription = bus.subscribe(self._inbox, self._on_message)

    def fetch(self, batch: int, expires_s: float) -> bool:
        """Asks for up to `batch` messages over the next `expires_s`.

        False: not connected, nothing was asked.
        """
        request = {"batch": batch, "expires": max(_PULL_EXPIRES_MIN_NS, int(expires_s * NS_PER_S))}
        return self._bus.publish(self._next, msgspec.json.encode(request), reply=self._inbox)

    def close(self) -> None:
        """Stops listening; what the broker still delivers comes back after its ack wait."""
        self._subscription.close()

    def _on_message(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        status = wire.status_of(headers)
        if not status:
            self._on_delivery(Delivered(subject, reply, headers, payload))
        elif status != 100:  # 100 is an idle heartbeat
            unused = wire.header_value(headers, b"Nats-Pending-Messages")
            self._on_end(int(unused) if unused else 0)
            is_deleted = status == _CONFLICT and _DELETED in headers.partition(b"\r\n")[0]
            if self._on_gone is not None and (is_deleted or status == _NO_RESPONDERS):
                self._on_gone()
