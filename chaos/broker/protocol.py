"""The server's side of the NATS protocol, without I/O: bytes of a client in, operations out, and the frames back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

CONTROL_LINE_MAX = 4096
"""Longest arguments of an operation, as the real server has it; a longer line costs the client its connection."""

PublishSink = Callable[[bytes, bytes, bytes, bytes], None]
"""Gets (subject, reply, header block, payload) of a PUB or HPUB."""

ControlSink = Callable[[bytes, bytes], None]
"""Gets (operation in capitals, arguments) of everything else: CONNECT, SUB, UNSUB, PING, PONG."""

PONG = b"PONG\r\n"
PING = b"PING\r\n"
OK = b"+OK\r\n"
HEADER_LINE = b"NATS/1.0"

_CRLF = b"\r\n"
_OPERATIONS = frozenset((b"CONNECT", b"SUB", b"UNSUB", b"PING", b"PONG"))


class ProtocolViolation(Exception):
    """The client broke the protocol: it is told `answer`, if there is one, and its connection is closed."""

    def __init__(self, answer: str = "") -> None:
        super().__init__(answer)
        self.answer = answer


class Parser:
    """Splits what a client sends into operations."""

    def __init__(self, publish: PublishSink, control: ControlSink, payload_max: int) -> None:
        self._publish = publish
        self._control = control
        self._payload_max = payload_max
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = 0

    def feed(self, data: bytes) -> None:
        """Hands over every complete operation in order. Raises ProtocolViolation."""
        if self._parts or self._wanted:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._wanted:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        at = 0
        self._wanted = 0
        size = len(data)
        while at < size:
            eol = data.find(_CRLF, at)
            if eol < 0:
                if size - data.find(b" ", at) - 1 > CONTROL_LINE_MAX:
                    raise ProtocolViolation("maximum control line exceeded")
                break
            if data.startswith(b"PUB ", at):
                end = self._pub(data, at + 4, eol, has_headers=False)
            elif data.startswith(b"HPUB ", at):
                end = self._pub(data, at + 5, eol, has_headers=True)
            else:
                end = self._other(data[at:eol], data, at, eol)
            if end < 0:
                break
            at = end
        if at < size:
            rest = data[at:]
            self._parts.append(rest)
            self._size = len(rest)
            self._wanted = max(self._wanted - at, 0)
        else:
            self._wanted = 0

    def _other(self, line: bytes, data: bytes, at: int, eol: int) -> int:
        name, _, args = line.partition(b" ")
        name = name.upper()
        if name == b"PUB":
            return self._pub(data, at + 4, eol, has_headers=False)
        if name == b"HPUB":
            return self._pub(data, at + 5, eol, has_headers=True)
        if name not in _OPERATIONS:
            raise ProtocolViolation("Unknown Protocol Operation")
        # CONNECT carries JSON and has a limit of its own in the real server; nobody here comes near either.
        if len(args) > CONTROL_LINE_MAX:
            raise ProtocolViolation("maximum control line exceeded")
        self._control(name, args)
        return eol + 2

    def _pub(self, data: bytes, args_at: int, eol: int, *, has_headers: bool) -> int:
        """Handles one publish; returns where the next operation starts, -1 if the payload is not whole yet."""
        if eol - args_at > CONTROL_LINE_MAX:
            raise ProtocolViolation("maximum control line exceeded")
        fields = data[args_at:eol].split()
        sizes = 2 if has_headers else 1
        if not sizes < len(fields) <= sizes + 2 or not (fields[-1].isdigit() and fields[-sizes].isdigit()):
            raise ProtocolViolation
        size = int(fields[-1])
        headers_size = int(fields[-2]) if has_headers else 0
        if headers_size > size:
            raise ProtocolViolation
        if size > self._payload_max:
            raise ProtocolViolation("Maximum Payload Violation")
        start = eol + 2
        end = start + size
        if end + 2 > len(data):
            self._wanted = end + 2
            return -1
        if data[end : end + 2] != _CRLF:
            raise ProtocolViolation("Unknown Protocol Operation")
        reply = fields[1] if len(fields) == sizes + 2 else b""
        payload_at = start + headers_size
        self._publish(fields[0], reply, data[start:payload_at], data[payload_at:end])
        return end + 2


def msg(subject: bytes, sid: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    """The MSG or HMSG frame of a message for one subscription."""
    if headers:
        if reply:
            return b"HMSG %b %b %b %d %d\r\n%b%b\r\n" % (
                *(subject, sid, reply, len(headers), len(headers) + len(payload)),
                *(headers, payload),
            )
        size = len(headers)
        return b"HMSG %b %b %d %d\r\n%b%b\r\n" % (subject, sid, size, size + len(payload), headers, payload)
    if reply:
        return b"MSG %b %b %b %d\r\n%b\r\n" % (subject, sid, reply, len(payload), payload)
    return b"MSG %b %b %d\r\n%b\r\n" % (subject, sid, len(payload), payload)


def status(line: bytes, *fields: bytes) -> bytes:
    """A header block that is a status, like `503` or `204 EOB`, with header lines."""
    return b"".join((HEADER_LINE, b" ", line, _CRLF, *(field + _CRLF for field in fields), _CRLF))


def with_headers(headers: bytes, lines: bytes) -> bytes:
    """A header block (or none yet) with `lines`, each ended by CRLF, added at its end."""
    if not headers:
        return b"%b\r\n%b\r\n" % (HEADER_LINE, lines)
    return b"%b%b\r\n" % (headers[:-2], lines)


def error(text: str) -> bytes:
    """The -ERR line."""
    return b"-ERR '%b'\r\n" % text.encode()


class Stamps:
    """Times as the server writes them into headers: RFC 3339 with nanoseconds, trailing zeros cut."""

    def __init__(self) -> None:
        self._second = -1
        self._head = b""

    def text(self, time_ns: int) -> bytes:
        """`time_ns`: nanoseconds since the epoch."""
        second, fraction = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            calendar = datetime.fromtimestamp(second, UTC)
            self._head = calendar.strftime("%Y-%m-%dT%H:%M:%S").encode()
        if not fraction:
            return self._head + b"Z"
        return b"%b.%bZ" % (self._head, (b"%09d" % fraction).rstrip(b"0"))
