"""Core NATS: who gets a message, and the bytes that wait for each client."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.broker import protocol
from chaos.broker.connection import Connection, Subscription
from chaos.broker.faults import Decision
from chaos.broker.interest import Interest


class Router:
    """Subscriptions of all clients. Frames are queued per client and leave when `flush` is called."""

    def __init__(self) -> None:
        self._interest: Interest[Subscription] = Interest()
        self._dirty: list[Connection] = []
        self._queue_turn = 0

    def subscribe(self, subscription: Subscription) -> None:
        """A client subscribed."""
        subscription.connection.subscriptions[subscription.sid] = subscription
        self._interest.add(subscription.subject, subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        """A client unsubscribed, or has had as many messages as it wanted."""
        del subscription.connection.subscriptions[subscription.sid]
        self._interest.remove(subscription.subject, subscription)

    def listeners(self, subject: bytes) -> Sequence[Subscription]:
        """Who would get a message on `subject`."""
        return self._interest.match(subject)

    def deliver(
        self,
        to: bytes,
        shown: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        sender: Connection | None = None,
        drop: Decision | None = None,
    ) -> bool:
        """A message for who listens on `to`, which names `shown` as its subject. False: nobody listens.

        `sender`: the client whose publish it is. `drop` is asked for each subscriber.
        """
        found = self._interest.match(to)
        if found:
            self.hand_out(found, shown, reply, headers, payload, sender=sender, drop=drop)
        return bool(found)

    def hand_out(
        self,
        found: Sequence[Subscription],
        shown: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        sender: Connection | None = None,
        drop: Decision | None = None,
    ) -> None:
        """A message for these listeners."""
        for subscription in found:
            if subscription.queue:
                found = self._one_of_each_queue(found)
                break
        for subscription in found:
            connection = subscription.connection
            if connection is sender and not connection.echo:
                continue
            if drop is not None and drop(shown.decode(errors="replace")):
                continue
            block = headers if connection.headers else b""
            self.queue(connection, protocol.msg(shown, subscription.sid, reply, block, payload))
            subscription.seen += 1
            if subscription.seen == subscription.max_msgs:
                self.unsubscribe(subscription)

    def no_responders(self, connection: Connection, subject: bytes, reply: bytes) -> None:
        """Tells a client that nobody listens on what it sent a request to."""
        headers = protocol.status(b"503", b"Nats-Subject: " + subject)
        for subscription in self._interest.match(reply):
            if subscription.connection is connection:
                self.queue(connection, protocol.msg(reply, subscription.sid, b"", headers, b""))

    def queue(self, connection: Connection, frame: bytes) -> None:
        """Bytes for a client."""
        if not connection.is_open:
            return
        if not connection.out:
            self._dirty.append(connection)
        connection.out.append(frame)

    def flush(self) -> None:
        """Sends what is queued, one chunk per client. A client may answer from within: order holds all the same."""
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                if connection.out:
                    chunk = b"".join(connection.out)
                    connection.out.clear()
                    connection.send(chunk)

    def drop(self, connection: Connection) -> None:
        """A client is gone, with its subscriptions and what waited for it."""
        connection.is_open = False
        connection.out.clear()
        for subscription in list(connection.subscriptions.values()):
            self.unsubscribe(subscription)

    def _one_of_each_queue(self, found: Sequence[Subscription]) -> list[Subscription]:
        """All plain subscriptions, and of each queue group one, in turn."""
        groups: dict[bytes, list[Subscription]] = {}
        chosen = []
        for subscription in found:
            if subscription.queue:
                groups.setdefault(subscription.queue, []).append(subscription)
            else:
                chosen.append(subscription)
        self._queue_turn += 1
        chosen += [members[self._queue_turn % len(members)] for members in groups.values()]
        return chosen
