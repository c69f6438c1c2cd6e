"""Server-sent events: the data of each event out of bytes that come in any pieces. Pure."""

from __future__ import annotations


class TooLong(Exception):
    """An event is longer than its bound: the other side sends what is no event stream, or has no end in it."""


class EventStream:
    """The lines of one stream. They end in CR, LF or CRLF, and a network read may end anywhere, inside of a character
    or between CR and LF; comments and fields other than `data` are dropped. At most `event_bytes_max` are kept."""

    def __init__(self, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._ended_in_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that are complete now. Raises TooLong."""
        is_rest_of_crlf = self._ended_in_cr and piece.startswith(b"\n")
        if piece:
            self._ended_in_cr = piece.endswith(b"\r")
        events: list[bytes] = []
        for line in piece[is_rest_of_crlf:].splitlines(keepends=True):
            self._line += line
            self._bound(len(self._line))
            if line.endswith((b"\n", b"\r")):
                self._take(bytes(self._line).rstrip(b"\r\n"), events)
                self._line.clear()
        return events

    def finish(self) -> list[bytes]:
        """The stream is over: the last event, where nothing but the empty line behind it is missing."""
        events: list[bytes] = []
        if self._line:
            self._take(bytes(self._line), events)
            self._line.clear()
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
                self._data_bytes = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data_bytes += len(line)
            self._bound(self._data_bytes)
            self._data.append(value.removeprefix(b" "))

    def _bound(self, size: int) -> None:
        if size > self._event_bytes_max:
            raise TooLong(f"an event of more than {self._event_bytes_max} bytes")
