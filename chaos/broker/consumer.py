"""One durable pull consumer: who waits, what is delivered and not settled, and what comes back when."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from chaos.broker import protocol
from chaos.broker.config import NS_PER_S
from chaos.broker.interest import matcher
from chaos.broker.stream import Message, Stream
from schemas import subjects

_ACKS = (b"+ACK", b"", b"+OK")


class Outgoing(NamedTuple):
    """A message or a status for whoever listens on `inbox`."""

    inbox: bytes
    subject: bytes
    reply: bytes
    headers: bytes
    payload: bytes


class Settled(NamedTuple):
    """What an acknowledgement did."""

    answered: bool
    """Whether an acknowledgement that asked for a reply gets one."""
    why: str = ""
    """Why the message leaves a work queue; empty if it does not."""


class Pull:
    """A fetch: room for `left` messages until `expires_at`."""

    __slots__ = ("expires_at", "inbox", "left", "no_wait", "served")

    def __init__(self, inbox: bytes, left: int, expires_at: float | None, no_wait: bool) -> None:
        self.inbox = inbox
        self.left = left
        self.expires_at = expires_at
        self.no_wait = no_wait
        self.served = False


class _PullRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What this broker knows of a fetch; the real one knows more, which is refused rather than ignored."""

    batch: int = 1
    expires: int = 0
    no_wait: bool = False


class _Unsettled:
    """A delivered message; `delivery` is the number of its first delivery, as the server keeps it."""

    __slots__ = ("deadline", "delivery")

    def __init__(self, deadline: float, delivery: int) -> None:
        self.deadline = deadline
        self.delivery = delivery


class Consumer:
    """Deliveries of one stream under one filter.

    Stale acknowledgements are honoured, as the real server does: any delivery's ack subject settles the message.
    """

    def __init__(self, stream: Stream, config: dict[str, Any], now: float) -> None:
        self.config = config
        self.name: str = config["name"]
        self.stream = stream
        self.created_ns = int(now * NS_PER_S)
        self.filter: bytes = config.get("filter_subject", "").encode()
        self.todo: OrderedDict[int, None] = OrderedDict()
        self.waiting: deque[Pull] = deque()
        self.unsettled: dict[int, _Unsettled] = {}
        self.delivered: dict[int, int] = {}
        self.last_delivery = 0
        self.last_seq = stream.first_seq - 1
        self._again: dict[int, None] = {}
        self._wanted = matcher(self.filter) if self.filter else None
        self._ack_wait_s: float = config["ack_wait"] / NS_PER_S
        self._max_unsettled: int = config["max_ack_pending"]
        self._max_waiting: int = config["max_waiting"]
        self._ack_prefix = subjects.js_ack(stream.name, self.name).encode()
        self._wake_at: float | None = None
        self._start()

    def is_idle(self) -> bool:
        """Whether `pump` would do nothing."""
        return not self.waiting or not (self.todo or self._again)

    def offer(self, message: Message) -> None:
        """A message was stored in the stream."""
        if self._wanted is None or self._wanted(message.subject):
            self.todo[message.seq] = None

    def forget(self, seq: int) -> None:
        """A message left the stream."""
        if self.todo.pop(seq, True) is None:
            return
        self.unsettled.pop(seq, None)
        self._again.pop(seq, None)
        self.delivered.pop(seq, None)

    def fetch(self, inbox: bytes, body: bytes, now: float) -> list[Outgoing]:
        """A fetch came in; `pump` serves it."""
        try:
            asked = _request(body)
        except msgspec.DecodeError as error:
            return [_ended(inbox, b"400 Bad Request - " + str(error).encode())]
        if len(self.waiting) >= self._max_waiting:
            return [_ended(inbox, b"409 Exceeded MaxWaiting")]
        if asked.no_wait and not asked.expires and not (self.todo or self._again):
            return [_ended(inbox, b"404 No Messages")]
        expires_at = now + asked.expires / NS_PER_S if asked.expires > 0 else None
        self.waiting.append(Pull(inbox, max(asked.batch, 1), expires_at, asked.no_wait))
        self._wake(expires_at)
        return []

    def pump(self, now: float, has_interest: Callable[[bytes], object]) -> list[Outgoing]:
        """Delivers what can be delivered: what comes back first, then what is new."""
        out: list[Outgoing] = []
        while self.waiting:
            if self._again:
                seq = next(iter(self._again))
            elif self.todo and (self._max_unsettled <= 0 or len(self.unsettled) < self._max_unsettled):
                seq = next(iter(self.todo))
            else:
                break
            pull = self._next_pull(now, has_interest, out)
            if pull is None:
                break
            out.append(self._deliver(seq, pull, now))
        for pull in [one for one in self.waiting if one.no_wait and (one.served or one.expires_at is None)]:
            self.waiting.remove(pull)
            out.append(_ended(pull.inbox, b"404 No Messages"))
        return out

    def settle(self, seq: int, delivery: int, body: bytes, now: float) -> Settled:
        """An acknowledgement of any earlier delivery of message `seq`."""
        if body in _ACKS or body.startswith(b"+TERM"):
            if seq in self.todo or seq > self.stream.last_seq:
                return Settled(answered=False)  # never delivered by this consumer
            self.unsettled.pop(seq, None)
            self._again.pop(seq, None)
            self.delivered.pop(seq, None)
            return Settled(answered=True, why="terminated" if body.startswith(b"+TERM") else "acked")
        unsettled = self.unsettled.get(seq)
        if unsettled is None:
            return Settled(answered=True)
        if body == b"+WPI":
            unsettled.deadline = now + self._ack_wait_s
        elif body.startswith(b"-NAK") and self.floor() < delivery <= self.last_delivery + 1:
            self._nak(seq, unsettled, body[4:].strip(), now)
        return Settled(answered=True)

    def expire(self, now: float, has_interest: Callable[[bytes], object]) -> list[Outgoing]:
        """Time has passed: fetches end, unsettled messages come back."""
        out: list[Outgoing] = []
        due = sorted(
            seq for seq, one in self.unsettled.items() if one.deadline <= now and seq not in self._again
        )
        for seq in due:
            self.come_back(seq, now)
        out += self.pump(now, has_interest)
        for pull in [one for one in self.waiting if one.expires_at is not None and one.expires_at <= now]:
            self.waiting.remove(pull)
            out.append(_expired(pull))
        self._wake_at = min(
            [one.expires_at for one in self.waiting if one.expires_at is not None]
            + [one.deadline for seq, one in self.unsettled.items() if seq not in self._again],
            default=None,
        )
        return out

    def come_back(self, seq: int, now: float) -> None:
        """An unsettled message is delivered again at the next fetch, as if its ack wait were over."""
        self.unsettled[seq].deadline = now + self._ack_wait_s
        self._again[seq] = None

    def next_deadline(self) -> float | None:
        """When to call `expire`; it may turn out to have been too early."""
        return self._wake_at

    def floor(self) -> int:
        """The number of the delivery up to which everything is settled."""
        return min((one.delivery for one in self.unsettled.values()), default=self.last_delivery + 1) - 1

    def close(self) -> list[Outgoing]:
        """The consumer is deleted: every open fetch ends."""
        ended = [_ended(pull.inbox, b"409 Consumer Deleted") for pull in self.waiting]
        self.waiting.clear()
        return ended

    def recover(self, *, forget_delivered: bool) -> None:
        """What a restart of the server makes of it: open fetches are gone, deliveries are kept if they were written."""
        self.waiting.clear()
        if forget_delivered:
            self.unsettled.clear()
            self.delivered.clear()
            self.last_delivery = 0
            self.last_seq = self.stream.first_seq - 1
            self._start()
        self._again.clear()
        for one in self.unsettled.values():
            # The server writes only the seconds of a delivery's time, so it comes back up to a second early.
            one.deadline = math.floor(one.deadline - self._ack_wait_s) + self._ack_wait_s
        self._wake_at = min((one.deadline for one in self.unsettled.values()), default=None)

    def drop_fetches(self) -> None:
        """The server that held the open fetches is gone; nobody is told."""
        self.waiting.clear()

    def _start(self) -> None:
        self.todo.clear()
        for seq in self.stream.sequences(self.filter or b">", 0):
            self.todo[seq] = None

    def _next_pull(
        self, now: float, has_interest: Callable[[bytes], object], out: list[Outgoing]
    ) -> Pull | None:
        """The next fetch that still wants something; fetches take turns."""
        while self.waiting:
            pull = self.waiting.popleft()
            if pull.expires_at is not None and pull.expires_at <= now:
                out.append(_expired(pull))
            elif has_interest(pull.inbox):
                pull.left -= 1
                pull.served = True
                if pull.left:
                    self.waiting.append(pull)
                return pull
        return None

    def _deliver(self, seq: int, pull: Pull, now: float) -> Outgoing:
        message = self.stream.messages[seq]
        self.last_delivery += 1
        unsettled = self.unsettled.get(seq)
        deadline = now + self._ack_wait_s
        if unsettled is not None:
            del self._again[seq]
            count = self.delivered.get(seq, 1) + 1
            self.delivered[seq] = count
            unsettled.deadline = deadline
        else:
            del self.todo[seq]
            count = 1
            self.last_seq = seq
            self.unsettled[seq] = _Unsettled(deadline, self.last_delivery)
        self._wake(deadline)
        ack = b"%b%d.%d.%d.%d.%d" % (
            *(self._ack_prefix, count, seq),
            *(self.last_delivery, message.stored_ns, len(self.todo)),
        )
        return Outgoing(pull.inbox, message.subject, ack, message.headers, message.payload)

    def _nak(self, seq: int, unsettled: _Unsettled, arg: bytes, now: float) -> None:
        delay_ns = _delay_ns(arg) if arg else 0
        if arg and delay_ns is not None:
            self._again.pop(seq, None)
            unsettled.deadline = now + delay_ns / NS_PER_S
            self._wake(unsettled.deadline)
        else:
            self._again[seq] = None

    def _wake(self, when: float | None) -> None:
        if when is not None and (self._wake_at is None or when < self._wake_at):
            self._wake_at = when


def _request(body: bytes) -> _PullRequest:
    if body[:1] == b"{":
        return msgspec.json.decode(body, type=_PullRequest)
    return _PullRequest(int(body)) if body.isdigit() else _PullRequest()


def _delay_ns(arg: bytes) -> int | None:
    """The delay of a NAK, None if it cannot be read (the server ignores it then)."""
    try:
        return int(msgspec.json.decode(arg, type=dict[str, int]).get("delay", 0))
    except msgspec.DecodeError:
        return None


def _ended(inbox: bytes, line: bytes) -> Outgoing:
    return Outgoing(inbox, inbox, b"", protocol.status(line), b"")


def _expired(pull: Pull) -> Outgoing:
    left = b"Nats-Pending-Messages: %d" % pull.left
    headers = protocol.status(b"408 Request Timeout", left, b"Nats-Pending-Bytes: 0")
    return Outgoing(pull.inbox, pull.inbox, b"", headers, b"")
