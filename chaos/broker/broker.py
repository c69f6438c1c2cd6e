"""The broker as a process: connections come and go, it is killed, started, paused, and it keeps time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from chaos.broker import protocol
from chaos.broker.alarm import Alarm, CallAt, Cancel
from chaos.broker.connection import Connection, Subscription
from chaos.broker.faults import BrokerFaults
from chaos.broker.jetstream import JetStream, RemovedTap, StoredTap
from chaos.broker.router import Router
from schemas import subjects

VERSION = "2.15.1"
"""The nats-server whose behaviour this is."""

PAYLOAD_MAX = 8 << 20
PING_INTERVAL_S = 5.0
PINGS_MAX = 2
"""As in the config of our own broker: a client that is silent for 15 s is cut off."""

_SERVER_SUBJECTS = subjects.JS_API.partition(".")[0].encode() + b"."


class StoredMessage(NamedTuple):
    """A message that is in a stream now."""

    seq: int
    subject: str
    headers: bytes
    payload: bytes
    stored_ns: int


class FakeBroker:
    """One nats-server in memory. What a call or a timer causes has left through `send` when it returns.

    `now()` is Unix time in seconds; `call_at(when, fn)` schedules on the same clock.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        call_at: CallAt,
        max_payload: int = PAYLOAD_MAX,
        faults: BrokerFaults | None = None,
    ) -> None:
        self.faults = faults if faults is not None else BrokerFaults()
        self._now = now
        self._call_at = call_at
        self._payload_max = max_payload
        self._up = True
        self._paused = False
        self._backlog: list[Callable[[], None]] = []
        self._connections: dict[Connection, Alarm] = {}
        self._connected_total = 0
        self._router = Router()
        self._js = JetStream(self._router, self.faults, now, self._schedule)

    @property
    def up(self) -> bool:
        """Whether clients can connect."""
        return self._up

    def connect(self, send: Callable[[bytes], None], close: Callable[[], None]) -> Connection:
        """A client connects; `close()` is called when the server closes the connection.

        Raises ConnectionRefusedError while the server is down.
        """
        if not self._up:
            raise ConnectionRefusedError("the broker is down")
        self._connected_total += 1
        connection = Connection(self, self._connected_total, send, close, self._payload_max)
        connection.heard_at = self._now()
        self._connections[connection] = Alarm(self._schedule, lambda: self._ping(connection))
        self._connections[connection].set(self._now() + PING_INTERVAL_S)
        self._run(lambda: self._router.queue(connection, self._greeting(connection)))
        return connection

    def kill(self, *, forget_delivered: bool = False) -> None:
        """SIGKILL. File storage keeps what was acknowledged; memory streams are gone, with their config.

        `forget_delivered`: what consumers had delivered was not written yet, so un-acked messages come back at once, as
        if for the first time.
        """
        assert self._up, "it is down already"
        self._up = self._paused = False
        self._backlog.clear()
        connections, self._connections = self._connections, {}
        for connection, alarm in connections.items():
            alarm.cancel()
            self._router.drop(connection)
        self._js.crash(forget_delivered=forget_delivered)
        for connection in connections:
            connection.close()

    def start(self) -> None:
        """The server is started again."""
        assert not self._up, "it runs already"
        self._up = True
        self._js.recover()

    def pause(self) -> None:
        """SIGSTOP: what clients send waits, nothing is answered, timers fire later."""
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: what waited is handled, in the order in which it came."""
        self._paused = False
        backlog, self._backlog = self._backlog, []
        for work in backlog:
            self._run(work)

    def on_stored(self, tap: StoredTap) -> None:
        """`tap(stream, seq, subject, headers, payload)` for every message stored, in order."""
        self._js.stored_taps.append(tap)

    def on_removed(self, tap: RemovedTap) -> None:
        """`tap(stream, seq, subject, why)` for every message that leaves a stream.

        `why`: acked, terminated, deleted, expired, replaced, discarded or lost.
        """
        self._js.removed_taps.append(tap)

    def messages(self, stream: str) -> list[StoredMessage]:
        """What is in a stream now, oldest first; nothing if there is no such stream."""
        found = self._js.streams.get(stream)
        if found is None:
            return []
        return [
            StoredMessage(seq, subject.decode(), headers, payload, stored_ns)
            for seq, subject, headers, payload, stored_ns in found.messages.values()
        ]

    def redeliver(self, stream: str, consumer: str, seq: int) -> bool:
        """A spurious early redelivery. False: the message is not delivered and unsettled just now."""
        found = self._js.consumers.get(stream, {}).get(consumer)
        if found is None or seq not in found.unsettled or not self._up:
            return False
        self._run(lambda: self._js.redeliver(found, seq))
        return True

    # What connections call.

    def received(self, connection: Connection, data: bytes) -> None:
        """A client sent bytes."""
        self._run(lambda: self._parse(connection, data))

    def gone(self, connection: Connection) -> None:
        """A client closed its side."""
        self._run(lambda: self._forget(connection))

    def hang_up(self, connection: Connection) -> None:
        """The server closes a connection, after what it still has to say."""
        self._router.flush()
        if connection.is_open:
            self._forget(connection)
            connection.close()

    def queue(self, connection: Connection, frame: bytes) -> None:
        """A frame for one client."""
        self._router.queue(connection, frame)

    def subscribe(self, subscription: Subscription) -> None:
        """A client subscribed."""
        self._router.subscribe(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        """A client unsubscribed."""
        self._router.unsubscribe(subscription)

    def publish(
        self, connection: Connection, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        """A client published: to subscribers, to a stream, or to the server itself."""
        lost = self.faults.drop_publish
        if lost is not None and not reply and lost(subject.decode(errors="replace")):
            return
        heard = self._router.deliver(
            subject, subject, reply, headers, payload, sender=connection, drop=self.faults.drop_live
        )
        if subject.startswith(_SERVER_SUBJECTS):
            heard |= self._js.call(subject, reply, payload)
        else:
            heard |= self._js.capture(subject, reply, headers, payload)
        if not heard and reply and connection.no_responders:
            self._router.no_responders(connection, subject, reply)

    def _run(self, work: Callable[[], None]) -> None:
        """Does `work` and sends what it caused; a paused server does it later."""
        if self._paused:
            self._backlog.append(work)
            return
        work()
        self._router.flush()

    def _schedule(self, when: float, ring: Callable[[], None]) -> Cancel:
        return self._call_at(when, lambda: self._run(ring))

    def _parse(self, connection: Connection, data: bytes) -> None:
        if connection.is_open:
            connection.heard_at = self._now()
            connection.parse(data)

    def _forget(self, connection: Connection) -> None:
        alarm = self._connections.pop(connection, None)
        if alarm is not None:
            alarm.cancel()
            self._router.drop(connection)

    def _ping(self, connection: Connection) -> None:
        now = self._now()
        if not connection.is_open:
            return
        if now - connection.heard_at >= PING_INTERVAL_S:
            if connection.pings_unanswered >= PINGS_MAX:
                self._router.queue(connection, protocol.error("Stale Connection"))
                self.hang_up(connection)
                return
            connection.pings_unanswered += 1
            self._router.queue(connection, protocol.PING)
        self._connections[connection].set(now + PING_INTERVAL_S)

    def _greeting(self, connection: Connection) -> bytes:
        info: dict[str, Any] = {
            "server_id": "FAKE",
            "server_name": "penstock",
            "version": VERSION,
            "proto": 1,
            "host": "127.0.0.1",
            "port": 0,
            "headers": True,
            "max_payload": self._payload_max,
            "jetstream": True,
            "client_id": connection.number,
            "client_ip": "127.0.0.1",
        }
        return b"INFO " + msgspec.json.encode(info) + b" \r\n"
