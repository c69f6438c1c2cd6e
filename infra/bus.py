"""The connection to NATS: the only import of the client library.

The library keeps what it is good at: connect, auth, TLS, INFO, PING, reconnect, replay of subscriptions. Its
parser is replaced by `infra.wire` and everything sent goes through one corked buffer, flushed once per turn
of the event loop, so that a publish costs a few microseconds and a message is a plain synchronous call. The
fields of the library's client this relies on are named in one class, `_Client`, and held down by
`tests/contract/test_bus.py`; the version is pinned.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client

from infra import wire
from infra.access import Access
from infra.broker_errors import BrokerErrors
from infra.logs import get_logger
from schemas.errors import BrokerAway

MessageCallback = Callable[[str, str, bytes, bytes], None]
"""Gets (subject, reply, header block, payload); runs in the event loop and must not raise."""

ReplyCallback = Callable[[bytes, bytes], None]
"""Gets (header block, payload) of a reply."""

PING_INTERVAL_S = 2
PINGS_OUTSTANDING_MAX = 2
"""With these a paused or cut-off server is noticed within 6 s; the library's own defaults need minutes."""

RECONNECT_WAIT_S = 0.2
CONNECT_TIMEOUT_S = 2

_log = get_logger("bus")


class Reply(NamedTuple):
    """What came back on a request."""

    headers: bytes
    payload: bytes


class Subscription:
    """Interest in a subject; survives reconnects until closed.

    The underscored attributes are those by which the library's client replays and closes subscriptions.
    """

    _queue = ""
    _max_msgs = 0
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, bus: Bus, subject: str, callback: MessageCallback) -> None:
        self._bus = bus
        self._subject = subject
        self.callback = callback
        self.sid = 0

    def close(self) -> None:
        """No callback is called after this returns."""
        self._bus._unsubscribe(self)


class Bus:
    """One connection: publish, subscribe, and requests over one shared inbox."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._state_callbacks: list[Callable[[bool], None]] = []
        self._loop = asyncio.get_running_loop()
        self.connected_since: float | None = None
        self._pending: dict[int, ReplyCallback] = {}
        self._waiting: dict[asyncio.Future[Any], None] = {}
        self._last_token = 0
        self._inbox = b""
        self._connect_too: Callable[..., Awaitable[Bus]] = partial(Bus.connect, name="visitor")

    @classmethod
    async def connect(
        cls, url: str, *, name: str, fail: Callable[[Exception], None], access: Access | None = None
    ) -> Bus:
        """Connects, waiting for the broker as long as it takes: also for one that refuses this process's key, or shows
        a certificate that does not hold, since both are mended there.

        `fail(error)` must end the process: it is deaf from then on. Called when the connection is closed for good (the
        server refused something that a reconnect cannot mend) and with what a callback raised.
        """
        access = access or Access()
        errors = BrokerErrors(access.public_key)
        client = _Client(fail, errors, must_encrypt=access.tls is not None)
        bus = cls(client)
        bus._connect_too = partial(cls.connect, name=f"{name}-visitor", access=access)

        async def lost() -> None:
            if not client.closing:
                fail(BrokerAway(f"closed for good: {client.last_error or 'no reason given'}"))

        # Shuffled once: a broker that is left is the last one to be tried again.
        servers = url.split(",")
        random.shuffle(servers)
        try:
            await client.connect(
                servers,
                dont_randomize=True,
                name=name,
                error_cb=errors.report,
                disconnected_cb=bus._disconnected,
                reconnected_cb=bus._reconnected,
                closed_cb=lost,
                connect_timeout=CONNECT_TIMEOUT_S,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds; it sleeps this long
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=PINGS_OUTSTANDING_MAX,
                tls=access.tls,
                nkeys_seed_str=access.seed or None,
                inbox_prefix=access.inbox_prefix,
            )
        except asyncio.CancelledError:
            await bus.close()
            raise
        errors.connected()
        bus.connected_since = bus._loop.time()
        prefix = client.new_inbox()
        bus._inbox = prefix.encode() + b"."
        bus.subscribe(prefix + ".*", bus._on_reply)
        return bus

    @classmethod
    def unconnected(cls) -> Bus:
        """One that never reaches a broker: for what only needs to be there, not to be heard."""
        return cls(_Client(lambda _error: None, BrokerErrors(""), must_encrypt=False))

    @property
    def connected(self) -> bool:
        """Whether bytes written now go to a live connection."""
        return self._client.is_connected

    @property
    def others(self) -> list[str]:
        """URLs of the brokers that this is not connected to: of those that were given, and those that they told of."""
        here = self._client.connected_url
        return [url.geturl() for url in self._client.servers if here is None or url.netloc != here.netloc]

    @contextlib.asynccontextmanager
    async def visit(self, url: str) -> AsyncIterator[Bus]:
        """A second connection, to the broker at `url`, for a question; it waits for that broker until it is cancelled.

        Raises what a callback raised there, or why it was closed for good.
        """
        failures: list[Exception] = []
        other = await self._connect_too(url, fail=failures.append)
        try:
            yield other
        finally:
            await other.close()
        for failure in failures:
            raise failure

    async def leave(self) -> None:
        """Goes to another broker, when there is one; like every loss of a connection for whoever uses it."""
        await self._client.force_reconnect()

    @property
    def max_payload(self) -> int:
        """Largest message the connected server takes, in bytes."""
        return self._client.max_payload

    def publish(self, subject: str, payload: bytes = b"", *, headers: bytes = b"", reply: str = "") -> bool:
        """Sends at the end of this turn of the event loop. False: not connected, nothing was sent."""
        return self._client.cork(wire.encode_publish(subject.encode(), reply.encode(), headers, payload))

    def call(self, subject: str, payload: bytes, on_reply: ReplyCallback, *, headers: bytes = b"") -> int:
        """Publishes with a reply address and returns a token, or 0: not connected, nothing was sent.

        `on_reply` is called at most once. There is no timer and no future: the caller owns the time-out and
        says `forget(token)` when it gives up.
        """
        self._last_token = token = self._last_token + 1
        frame = wire.encode_publish(subject.encode(), self._inbox + b"%d" % token, headers, payload)
        if not self._client.cork(frame):
            return 0
        self._pending[token] = on_reply
        return token

    def forget(self, token: int) -> None:
        """A reply to `token` is no longer wanted."""
        self._pending.pop(token, None)

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: bytes = b"", timeout_s: float
    ) -> Reply:
        """One round trip, for what is not on the token path.

        Raises BrokerAway: no answer within `timeout_s`.
        """
        answer: asyncio.Future[Reply] = self.answer()

        def on_reply(reply_headers: bytes, reply_payload: bytes) -> None:
            if not answer.done():
                answer.set_result(Reply(reply_headers, reply_payload))

        token = self.call(subject, payload, on_reply, headers=headers)
        try:
            if not token:
                raise BrokerAway(f"not connected; {subject} was not sent")
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise BrokerAway(f"no answer on {subject} within {timeout_s} s") from None
        finally:
            self.forget(token)
            answer.cancel()

    def subscribe(self, subject: str, callback: MessageCallback) -> Subscription:
        """Calls back for each message from now on; what is published after this call on this connection is seen."""
        subscription = Subscription(self, subject, callback)
        self._client.add(subscription, subject)
        return subscription

    def inbox(self) -> str:
        """A subject of this connection's own, for replies that are more than one message."""
        return str(self._client.new_inbox())

    def answer(self) -> asyncio.Future[Any]:
        """A future for an answer over this connection: it fails with BrokerAway when the connection is lost.

        Cancel it when it is not wanted any more; until it is done it is kept.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[future] = None
        future.add_done_callback(self._waiting.pop)
        return future

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """`callback(connected)` after every disconnect and reconnect, as a callback of the event loop.

        Kept for the life of the bus.
        """
        self._state_callbacks.append(callback)

    async def close(self) -> None:
        """Sends what is corked and closes."""
        self._client.closing = True
        self._client.uncork()
        with contextlib.suppress(OSError):  # the connection broke just now: closed is closed
            await self._client.close()
        self._pending.clear()

    def _unsubscribe(self, subscription: Subscription) -> None:
        self._client.remove(subscription)

    def _on_reply(self, subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
        callback = self._pending.pop(int(subject[len(self._inbox) :]), None)
        if callback is not None:
            callback(headers, payload)

    async def _disconnected(self) -> None:
        self.connected_since = None
        self._client.discard()
        if not self._client.closing:
            _log.warning("disconnected from the broker")
        self._tell(False)

    async def _reconnected(self) -> None:
        self.connected_since = self._loop.time()
        self._client.errors.connected()
        _log.info("reconnected to the broker")
        self._tell(True)

    def _tell(self, connected: bool) -> None:
        if not connected:
            # No answer can come any more: whoever waits for one tries again as soon as there is a connection.
            for waiting in list(self._waiting):
                if not waiting.done():
                    waiting.set_exception(BrokerAway("disconnected while waiting for an answer"))
        for callback in self._state_callbacks:
            # Not from here: what one raises would end the library's reconnect task, and nobody would see.
            self._loop.call_soon(callback, connected)


class _Client(Client):
    """The library's client with our parser, our cork and synchronous subscriptions.

    Relies on: `_ps`, `_pending`, `_pending_data_size`, `_transport`, `_subs`, `_sid`, `_server_info`,
    `_connect_command`, `_process_err/ping/pong/info`.
    """

    def __init__(
        self, fail: Callable[[Exception], None], errors: BrokerErrors, *, must_encrypt: bool
    ) -> None:
        super().__init__()
        self.fail = fail
        self.errors = errors
        self._must_encrypt = must_encrypt
        # The library types it as its own parser; ours has the two methods it calls.
        self._ps: Any = _Protocol(self)
        self._flush_scheduled = False
        self.closing = False

    def cork(self, frame: bytes) -> bool:
        if not self.is_connected:
            return False
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self.uncork)
        return True

    def uncork(self) -> None:
        self._flush_scheduled = False
        if self._pending and self.is_connected and self._transport:
            frames = b"".join(self._pending)
            self._pending.clear()
            self._pending_data_size = 0
            # The event loop may have closed the socket and the library not know yet, as after a long pause of this
            # process: uvloop raises then. These bytes are lost like all on a dead connection, and it reconnects.
            with contextlib.suppress(RuntimeError):
                self._transport.write(frames)

    def discard(self) -> None:
        """Bytes of a dead connection are not sent on the next one:

        whoever waits for an answer sends again itself.
        """
        self._pending.clear()
        self._pending_data_size = 0

    def _connect_command(self) -> bytes:
        # The library goes on in the clear where the server, or whoever stands before it, does not ask for TLS.
        if self._must_encrypt and not self._server_info.get("tls_required"):
            raise nats.errors.Error("nats: the broker does not ask for TLS, and tls:// demands it")
        return super()._connect_command()

    def add(self, subscription: Subscription, subject: str) -> None:
        self._sid += 1
        subscription.sid = self._sid
        self._subs[self._sid] = subscription  # type: ignore[assignment]
        self.cork(b"SUB %b  %d\r\n" % (subject.encode(), self._sid))

    def remove(self, subscription: Subscription) -> None:
        if self._subs.pop(subscription.sid, None) is not None:
            self.cork(b"UNSUB %d\r\n" % subscription.sid)


class _Protocol:
    """Stands where the library's parser stood: same two methods."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._parser = wire.Parser()

    def reset(self) -> None:
        self._parser.reset()

    async def parse(self, data: bytes = b"") -> None:
        try:
            lines = self._parser.feed(data, self._dispatch)
        except Exception as error:
            # The library's read loop logs it and stops reading: a process that is connected and deaf.
            self._client.fail(error)
            raise
        for line in lines:
            await self._control(line)

    def _dispatch(self, sid: bytes, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        subscription: Any = self._client._subs.get(int(sid))
        if subscription is not None:
            # A publisher can put any bytes into a subject; what is no text of ours parses to nothing.
            subscription.callback(subject.decode(errors="replace"), reply.decode(), headers, payload)

    async def _control(self, line: bytes) -> None:
        client = self._client
        if line.startswith(b"PING"):
            await client._process_ping()
        elif line.startswith(b"PONG"):
            await client._process_pong()
        elif line.startswith(b"INFO"):
            await client._process_info(json.loads(line[5:]))
        elif line[:40].lower().startswith(b"-err 'permissions violation"):
            client.errors.forbidden(line)
        elif line.startswith(b"-ERR"):
            await client._process_err(line[4:].strip().decode("utf-8", "replace").lower())
        elif not line.startswith(b"+OK"):
            raise nats.errors.ProtocolError
