"""The lines of a batch's input file. Pure."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from edge.batches.records import LineFault, Url
from edge.errors import cut

LINES_MAX = 50_000
"""Requests in one batch, as OpenAI's API has it."""

FAULTS_MAX = 50
"""Faults that are told of one file; whoever sees these knows what to mend."""

CUSTOM_ID_CHARS_MAX = 512
"""Far more than the ids of any system; the result of a line repeats it."""


class Line(NamedTuple):
    """`number` counts from 1, blank lines too. `raw`: None if the line was too long to be kept."""

    number: int
    raw: bytes | None


class Lines:
    """Cuts a stream of bytes into its lines that are not blank. Holds one line of at most `bytes_max`."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rest = bytearray()
        self._overlong = False
        self._number = 1

    def feed(self, data: bytes) -> list[Line]:
        """The lines that end in `data`."""
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines += self._take()
        self._keep(rest)
        return lines

    def finish(self) -> list[Line]:
        """The last line, if no line end follows it."""
        return self._take()

    def _keep(self, piece: bytes) -> None:
        if len(self._rest) + len(piece) > self._bytes_max:
            self._overlong = True
            self._rest.clear()
        if not self._overlong:
            self._rest += piece

    def _take(self) -> list[Line]:
        line = Line(self._number, None if self._overlong else bytes(self._rest))
        self._number += 1
        self._rest.clear()
        self._overlong = False
        return [line] if line.raw is None or line.raw.strip() else []


class Request(msgspec.Struct, frozen=True):
    """One line: what to ask, and by which name its result is known."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_request = msgspec.json.Decoder(Request)
_any = msgspec.json.Decoder()


def read_line(line: Line, endpoint: Url) -> Request | LineFault:
    """A line of a batch for `endpoint`, or the first thing that is wrong with it."""
    if line.raw is None:
        return LineFault("line_too_long", "the line is longer than a request may be", None, line.number)
    try:
        request = _request.decode(line.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _unreadable(line, str(error))
    if not 0 < len(request.custom_id) <= CUSTOM_ID_CHARS_MAX:
        said = f"custom_id must have 1 to {CUSTOM_ID_CHARS_MAX} characters"
        return LineFault("invalid_custom_id", said, "custom_id", line.number)
    if request.method != "POST":
        return LineFault("invalid_method", "method must be POST", "method", line.number)
    if request.url != endpoint:
        said = f"url must be that of the batch, {endpoint}"
        return LineFault("invalid_url", said, "url", line.number)
    return request


class Checker:
    """Looks at a whole file, line by line, before any of it is run. Keeps 16 bytes of each line's custom_id."""

    def __init__(self, endpoint: Url) -> None:
        self._endpoint = endpoint
        self._seen: set[bytes] = set()
        self.total = 0
        self.faults: list[LineFault] = []

    @property
    def hopeless(self) -> bool:
        """Whether there is no point in looking any further."""
        return len(self.faults) >= FAULTS_MAX or self.total > LINES_MAX

    def add(self, line: Line) -> None:
        """The next line."""
        self.total += 1
        if self.total > LINES_MAX:
            said = f"a batch may have at most {LINES_MAX} requests"
            self.faults.append(LineFault("too_many_lines", said, None, line.number))
            return
        request = read_line(line, self._endpoint)
        if isinstance(request, LineFault):
            self.faults.append(request)
            return
        digest = hashlib.sha256(request.custom_id.encode()).digest()[:16]
        if digest in self._seen:
            said = "another line has the same custom_id"
            self.faults.append(LineFault("duplicate_custom_id", said, "custom_id", line.number))
        self._seen.add(digest)

    def finish(self) -> None:
        """There are no more lines."""
        if not self.total:
            self.faults.append(LineFault("empty_file", "the file has no lines"))


def _unreadable(line: Line, why: str) -> LineFault:
    assert line.raw is not None
    try:
        _any.decode(line.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return LineFault("invalid_json_line", f"the line is not valid JSON: {error}", None, line.number)
    for field in ("custom_id", "method", "url", "body"):
        if f"`{field}`" in why and "missing" in why:
            return LineFault("missing_required_parameter", f"{field} is missing", field, line.number)
    return LineFault("invalid_request", cut(f"the line is no request: {why}"), None, line.number)
