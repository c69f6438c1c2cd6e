"""One client's connection, as the server sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from chaos.broker import protocol
from chaos.broker.interest import is_pattern

_options = msgspec.json.Decoder(dict[str, Any])


class Subscription:
    """A client's interest in `subject`; `max_msgs` and `seen` implement UNSUB with a number."""

    __slots__ = ("connection", "max_msgs", "queue", "seen", "sid", "subject")

    def __init__(self, connection: Connection, subject: bytes, queue: bytes, sid: bytes) -> None:
        self.connection = connection
        self.subject = subject
        self.queue = queue
        self.sid = sid
        self.max_msgs = 0
        self.seen = 0


class Owner(Protocol):
    """The broker, for its connections."""

    def received(self, connection: Connection, data: bytes) -> None: ...
    def gone(self, connection: Connection) -> None: ...
    def subscribe(self, subscription: Subscription) -> None: ...
    def unsubscribe(self, subscription: Subscription) -> None: ...
    def publish(
        self, connection: Connection, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None: ...
    def hang_up(self, connection: Connection) -> None: ...
    def queue(self, connection: Connection, frame: bytes) -> None: ...


class Connection:
    """Feed it what the client sends; what the server sends leaves through the broker's `send` callback."""

    def __init__(
        self,
        owner: Owner,
        number: int,
        send: Callable[[bytes], None],
        close: Callable[[], None],
        payload_max: int,
    ) -> None:
        self.number = number
        self.send = send
        self.close = close
        self.is_open = True
        self.out: list[bytes] = []
        self.subscriptions: dict[bytes, Subscription] = {}
        self.echo = True
        self.headers = False
        self.no_responders = False
        self.pings_unanswered = 0
        self.heard_at = 0.0
        self._verbose = True
        self._owner = owner
        self._parser = protocol.Parser(self._published, self._controlled, payload_max)

    def feed(self, data: bytes) -> None:
        """Bytes from the client, cut anywhere."""
        self._owner.received(self, data)

    def closed(self) -> None:
        """The client's side is gone."""
        self._owner.gone(self)

    def parse(self, data: bytes) -> None:
        """Handles what has arrived; a client that breaks the protocol is told and closed."""
        try:
            self._parser.feed(data)
        except protocol.ProtocolViolation as violation:
            if violation.answer:
                self._owner.queue(self, protocol.error(violation.answer))
            self._owner.hang_up(self)

    def _published(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if not self.is_open:
            return
        if headers and not self.headers:
            raise protocol.ProtocolViolation
        if self._verbose:
            self._owner.queue(self, protocol.OK)
        self._owner.publish(self, subject, reply, headers, payload)

    def _controlled(self, name: bytes, args: bytes) -> None:
        if not self.is_open:
            return
        if name == b"PING":
            self._owner.queue(self, protocol.PONG)
            return
        if name == b"PONG":
            self.pings_unanswered = 0
            return
        if name == b"SUB":
            accepted = self._sub(args.split())
        elif name == b"UNSUB":
            accepted = self._unsub(args.split())
        else:
            accepted = self._connect(args)
        if self._verbose and accepted:
            self._owner.queue(self, protocol.OK)

    def _connect(self, args: bytes) -> bool:
        try:
            options = _options.decode(args)
        except msgspec.DecodeError:
            raise protocol.ProtocolViolation from None
        self._verbose = bool(options.get("verbose"))
        self.echo = bool(options.get("echo", True))
        self.headers = bool(options.get("headers"))
        self.no_responders = self.headers and bool(options.get("no_responders"))
        return True

    def _sub(self, args: list[bytes]) -> bool:
        if len(args) not in (2, 3):
            raise protocol.ProtocolViolation
        subject, sid = args[0], args[-1]
        if sid not in self.subscriptions:
            if not is_pattern(subject):
                self._owner.queue(self, protocol.error("Invalid Subject"))
                return False
            subscription = Subscription(self, subject, args[1] if len(args) == 3 else b"", sid)
            self._owner.subscribe(subscription)
        return True

    def _unsub(self, args: list[bytes]) -> bool:
        if len(args) not in (1, 2):
            raise protocol.ProtocolViolation
        subscription = self.subscriptions.get(args[0])
        if subscription is not None:
            subscription.max_msgs = int(args[1]) if len(args) == 2 and args[1].isdigit() else 0
            if subscription.seen >= subscription.max_msgs:
                self._owner.unsubscribe(subscription)
        return True
