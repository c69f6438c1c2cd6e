"""One stream: what is stored, what it refuses, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from chaos.broker import protocol
from chaos.broker.config import NS_PER_S
from chaos.broker.interest import is_wildcard, matcher

EXPIRY_DELAY_S = 0.25
"""So long after its age a message is gone: the server looks that often (measured: 1.15 to 1.29 s at an age of 1 s)."""

_EXPECTED = b"\r\nNats-Expected-Last-Subject-Sequence:"
_EXPECTED_ON = b"\r\nNats-Expected-Last-Subject-Sequence-Subject:"
_INCREMENT = b"\r\nNats-Incr:"
_MSG_ID = b"\r\nNats-Msg-Id:"
_FILE_OVERHEAD = 30
"""Bytes of a stored message besides subject, headers and payload, in a file; four more with headers."""
_MEMORY_OVERHEAD = 16


class Message(NamedTuple):
    """A stored message."""

    seq: int
    subject: bytes
    headers: bytes
    payload: bytes
    stored_ns: int


class Duplicate(NamedTuple):
    """The message was stored before, at `seq`, under the same id."""

    seq: int


class Refusal(NamedTuple):
    """Nothing was stored."""

    code: int
    err_code: int
    description: str


class Stream:
    """Storage, limits, compare-and-set, duplicate window and age of one stream.

    `on_removed(message, why)` is called for everything that leaves it.
    """

    def __init__(
        self, config: dict[str, Any], now: float, on_removed: Callable[[Stream, Message, str], None]
    ) -> None:
        self.config = config
        self.name: str = config["name"]
        self.created_ns = int(now * NS_PER_S)
        self.messages: dict[int, Message] = {}
        self.last_seq: int = config.get("first_seq", 1) - 1
        self.last_ns = 0
        self.bytes = 0
        republish = config.get("republish")
        self.republish: tuple[bytes, bytes] | None = None
        """Prefix of what is copied, and what the copies' subjects have in its place."""
        if republish is not None:
            self.republish = (republish["src"][:-1].encode(), republish["dest"][:-1].encode())
        self._first: int = self.last_seq + 1
        self.counts: bool = config.get("allow_msg_counter", False)
        """Whether its messages are additions: the newest one of a subject says the sum."""
        self._on_removed = on_removed
        self._by_subject: dict[bytes, list[int]] = {}
        self._under: dict[bytes, dict[bytes, None]] = {}
        self._ids: dict[bytes, tuple[int, float]] = {}
        self._max_msgs: int = config["max_msgs"]
        self._max_bytes: int = config["max_bytes"]
        self._max_per_subject: int = config["max_msgs_per_subject"]
        self._refuses_new: bool = config["discard"] == "new"
        self._refuses_per_subject: bool = config.get("discard_new_per_subject", False)
        self._max_age_s: float = config["max_age"] / NS_PER_S
        self._window_s: float = config["duplicate_window"] / NS_PER_S
        self._is_file: bool = config["storage"] == "file"

    @property
    def first_seq(self) -> int:
        """Sequence of the oldest message, or the next one to come."""
        while self._first <= self.last_seq and self._first not in self.messages:
            self._first += 1
        return self._first

    @property
    def subject_count(self) -> int:
        """How many subjects have a message."""
        return len(self._by_subject)

    def publish(
        self, subject: bytes, headers: bytes, payload: bytes, now: float
    ) -> Message | Duplicate | Refusal:
        """Stores a message, or says why not: compare-and-set first, then duplicates, then limits."""
        if self.counts:
            refusal = _no_addition(headers, payload)
            if refusal is not None:
                return refusal
        msg_id = None
        if headers:
            refusal = self._expectation(subject, headers)
            if refusal is not None:
                return refusal
            msg_id = header(headers, _MSG_ID)
            if msg_id is not None:
                known = self._known(msg_id, now)
                if known is not None:
                    return Duplicate(known)
        if self.counts:
            payload = self._sum(subject, headers)
        message = Message(self.last_seq + 1, subject, headers, payload, int(now * NS_PER_S))
        size = self._size(message)
        same = self._by_subject.get(subject)
        if self._refuses_new:
            refusal = self._full(same, size)
            if refusal is not None:
                return refusal
        self._store(message, size)
        if msg_id is not None:
            self._ids[msg_id] = (message.seq, now)
        if same is not None and 0 < self._max_per_subject < len(same):
            self.remove(same[0], "replaced")
        if not self._refuses_new:
            self._discard_old()
        return message

    def remove(self, seq: int, why: str) -> bool:
        """Removes one message. False: it is not there (any more)."""
        message = self.messages.pop(seq, None)
        if message is None:
            return False
        self.bytes -= self._size(message)
        subject = message.subject
        same = self._by_subject[subject]
        if len(same) == 1:
            del self._by_subject[subject]
            prefix = subject.rpartition(b".")[0]
            siblings = self._under[prefix]
            del siblings[subject]
            if not siblings:
                del self._under[prefix]
        elif same[0] == seq:
            del same[0]
        else:
            same.remove(seq)
        self._on_removed(self, message, why)
        return True

    def last_of(self, pattern: bytes) -> int:
        """Sequence of the newest message on a subject, or on all that a wildcard covers; 0: there is none."""
        same = self._by_subject.get(pattern)
        if same is not None:
            return same[-1]
        return max((self._by_subject[subject][-1] for subject in self._subjects(pattern)), default=0)

    def sequences(self, pattern: bytes, start_seq: int) -> list[int]:
        """Sequences from `start_seq` on of what `pattern` covers, in order."""
        found: list[int] = []
        for subject in self._subjects(pattern):
            found += [seq for seq in self._by_subject[subject] if seq >= start_seq]
        found.sort()
        return found

    def counts_by_subject(self, pattern: bytes) -> dict[str, int]:
        """Messages by subject, of those that `pattern` covers."""
        return {subject.decode(): len(self._by_subject[subject]) for subject in self._subjects(pattern)}

    def before(self, message: Message) -> int:
        """Sequence of the message before this one on its subject, 0 if it is the first."""
        same = self._by_subject[message.subject]
        return same[-2] if len(same) > 1 and same[-1] == message.seq else 0

    def expire(self, now: float) -> None:
        """Removes what has reached the maximal age."""
        limit = int((now - self._max_age_s) * NS_PER_S)
        while self.messages:
            oldest = self.messages[self.first_seq]
            if oldest.stored_ns > limit:
                break
            self.remove(oldest.seq, "expired")

    def next_deadline(self) -> float | None:
        """When to call `expire`."""
        if not self._max_age_s or not self.messages:
            return None
        return self.messages[self.first_seq].stored_ns / NS_PER_S + self._max_age_s + EXPIRY_DELAY_S

    def recover(self, now: float) -> None:
        """What a restart makes of it: ids of messages that are not stored any more are forgotten."""
        self._ids = {}
        for message in self.messages.values():
            msg_id = header(message.headers, _MSG_ID)
            if msg_id is not None:
                self._ids[msg_id] = (message.seq, message.stored_ns / NS_PER_S)
        self._forget_ids(now)

    def _expectation(self, subject: bytes, headers: bytes) -> Refusal | None:
        expected = header(headers, _EXPECTED)
        on = header(headers, _EXPECTED_ON)
        if expected is None:
            if on is None:
                return None
            return Refusal(400, 10193, "missing sequence for expected last sequence per subject")
        last = self.last_of(on or subject)
        if expected.isdigit() and int(expected) == last:
            return None
        return Refusal(400, 10071, f"wrong last sequence: {last}")

    def _sum(self, subject: bytes, headers: bytes) -> bytes:
        """What a counter's message says: its last value and what is added to it."""
        last = self.messages.get(self.last_of(subject))
        value = 0 if last is None else int(msgspec.json.decode(last.payload)["val"])
        return b'{"val":"%d"}' % (value + int(header(headers, _INCREMENT) or b""))

    def _known(self, msg_id: bytes, now: float) -> int | None:
        self._forget_ids(now)
        known = self._ids.get(msg_id)
        return None if known is None else known[0]

    def _forget_ids(self, now: float) -> None:
        forgotten = []
        for msg_id, (_, stored_at) in self._ids.items():
            if now - stored_at < self._window_s:
                break
            forgotten.append(msg_id)
        for msg_id in forgotten:
            del self._ids[msg_id]

    def _full(self, same: list[int] | None, size: int) -> Refusal | None:
        subject_full = same is not None and 0 < self._max_per_subject <= len(same)
        if subject_full and self._refuses_per_subject:
            return Refusal(503, 10077, "maximum messages per subject exceeded")
        if 0 < self._max_msgs <= len(self.messages) and not subject_full:
            return Refusal(503, 10077, "maximum messages exceeded")
        if 0 < self._max_bytes < self.bytes + size:
            # A message that replaces another one only has to fit into its place.
            place = self._size(self.messages[same[0]]) if subject_full and same else 0
            if place < size:
                return Refusal(503, 10077, "maximum bytes exceeded")
        return None

    def _discard_old(self) -> None:
        while 0 < self._max_msgs < len(self.messages) or 0 < self._max_bytes < self.bytes:
            self.remove(self.first_seq, "discarded")

    def _store(self, message: Message, size: int) -> None:
        seq, subject = message.seq, message.subject
        self.last_seq = seq
        self.last_ns = message.stored_ns
        self.messages[seq] = message
        self.bytes += size
        same = self._by_subject.get(subject)
        if same is not None:
            same.append(seq)
            return
        self._by_subject[subject] = [seq]
        self._under.setdefault(subject.rpartition(b".")[0], {})[subject] = None

    def _subjects(self, pattern: bytes) -> Iterator[bytes]:
        """The subjects with messages that `pattern` covers."""
        if not is_wildcard(pattern):
            return iter((pattern,) if pattern in self._by_subject else ())
        prefix, dot, last = pattern.rpartition(b".")
        if dot and last == b"*" and not is_wildcard(prefix):
            return iter(self._under.get(prefix, ()))
        return filter(matcher(pattern), self._by_subject)

    def _size(self, message: Message) -> int:
        size = len(message.subject) + len(message.headers) + len(message.payload)
        if not self._is_file:
            return size + _MEMORY_OVERHEAD
        return size + _FILE_OVERHEAD + (4 if message.headers else 0)


def header(block: bytes, name: bytes) -> bytes | None:
    """The value of a header; `name` with its line break in front and its colon."""
    at = block.find(name)
    if at < 0:
        return None
    at += len(name)
    return block[at : block.find(b"\r\n", at)].strip()


def _no_addition(headers: bytes, payload: bytes) -> Refusal | None:
    """Why a stream of counters does not take a message."""
    increment = header(headers, _INCREMENT)
    if increment is None:
        return Refusal(400, 10169, "message counter increment is missing")
    if payload:
        return Refusal(400, 10170, "message counter has payload")
    if not increment.lstrip(b"+-").isdigit() or _EXPECTED in headers:
        return Refusal(400, 10171, "message counter increment is invalid")
    return None


def copy_headers(message: Message, stream: str, stamps: protocol.Stamps) -> bytes:
    """Header lines that say where a message is stored, as live copies and direct gets carry them."""
    return b"Nats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n" % (
        *(stream.encode(), message.subject),
        *(message.seq, stamps.text(message.stored_ns)),
    )
