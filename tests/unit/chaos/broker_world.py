"""A clock that moves when told to, and clients that speak to a fake broker in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import msgspec

from chaos.broker import BrokerFaults, Connection, FakeBroker
from infra import wire
from schemas import subjects
from schemas.ids import ModelKey
from schemas.streams import ConsumerSpec, StreamSpec, output_stream, requests_consumer, requests_stream

START = 1_800_000_000.0


class Timer:
    """A scheduled call."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.is_live = True

    def cancel(self) -> None:
        self.is_live = False


class World:
    """One broker and its time."""

    def __init__(self) -> None:
        self.time = START
        self.faults = BrokerFaults()
        self._timers: list[tuple[float, int, Timer]] = []
        self._scheduled = 0
        self.broker = FakeBroker(now=lambda: self.time, call_at=self._call_at, faults=self.faults)

    def _call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self._scheduled += 1
        timer = Timer(when, call)
        heapq.heappush(self._timers, (when, self._scheduled, timer))
        return timer

    @property
    def timers(self) -> int:
        """Calls that are still to come."""
        return sum(timer.is_live for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Lets time pass; what is due happens at its own time."""
        end = self.time + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            if timer.is_live:
                timer.is_live = False
                self.time = max(self.time, when)
                timer.call()
        self.time = end


class Client:
    """A client that keeps what it gets; it listens on `in.>` for answers."""

    def __init__(self, world: World) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False
        self.connection: Connection = world.broker.connect(self.sent.append, self._close)
        self._answers = 0
        self.feed(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB in.> 1\r\n')

    def _close(self) -> None:
        self.is_closed = True

    def feed(self, data: bytes) -> None:
        self.connection.feed(data)

    def messages(self) -> list[tuple[str, str, bytes, bytes]]:
        """What has arrived since the last call: (subject, reply, headers, payload)."""
        found: list[tuple[str, str, bytes, bytes]] = []
        data = b"".join(self.sent)
        self.sent.clear()
        wire.Parser().feed(
            data, lambda _sid, subject, *rest: found.append((subject.decode(), rest[0].decode(), *rest[1:]))
        )
        return found

    def publish(self, subject: str, payload: bytes = b"", *, headers: bytes = b"", reply: str = "") -> None:
        self.feed(wire.encode_publish(subject.encode(), reply.encode(), headers, payload))

    def request(
        self, subject: str, payload: bytes = b"", *, headers: bytes = b""
    ) -> tuple[bytes, bytes] | None:
        """(headers, payload) of the answer, if one came at once."""
        self._answers += 1
        inbox = f"in.{self._answers}"
        self.publish(subject, payload, headers=headers, reply=inbox)
        got = [(headers, payload) for to, _, headers, payload in self.messages() if to == inbox]
        return got[0] if got else None

    def api(self, subject: str, body: object = None) -> dict[str, Any]:
        answer = self.request(subject, msgspec.json.encode(body) if body is not None else b"")
        assert answer is not None
        decoded: dict[str, Any] = msgspec.json.decode(answer[1])
        return decoded


REQUESTS_SPEC = requests_stream(queue_max=100, queue_bytes_max=1 << 20)
CONSUMER_SPEC = requests_consumer("standard", ModelKey("m"), ack_wait_s=10, queue_max=100)


def output_spec(*, memory: bool = False) -> StreamSpec:
    return output_stream(output_bytes_max=1 << 20, retention_s=60, first_seq=1000, memory=memory)


def with_streams(client: Client, *, memory: bool = False) -> None:
    """Creates the streams and the consumer."""
    for spec in (REQUESTS_SPEC, output_spec(memory=memory)):
        assert "error" not in client.api(subjects.js_stream("CREATE", spec.name), spec.config)
    assert "error" not in client.api(*creation(CONSUMER_SPEC))


def creation(spec: ConsumerSpec) -> tuple[str, dict[str, Any]]:
    body = {"stream_name": spec.stream, "config": spec.config, "action": "create"}
    return subjects.js_consumer("CREATE", spec.stream, spec.name), body


def fetch(client: Client, batch: int = 1, expires_s: float = 5.0, inbox: str = "in.fetch") -> None:
    body = msgspec.json.encode({"batch": batch, "expires": int(expires_s * 1e9)})
    client.publish(
        subjects.js_consumer("MSG.NEXT", CONSUMER_SPEC.stream, CONSUMER_SPEC.name), body, reply=inbox
    )
