"""The newest traces of this machine, in files that all its processes write and `penstock trace` reads.

Under `<store_dir>/traces` each process appends JSON lines, one for a span, to a file of its own, and begins a new one
when that is long enough. Whoever writes deletes the oldest files first, whoever they are of: all of them together stay
under the bound however often processes are started, and a process that died needs nobody to clean up after it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from infra.tracing import Kind, Span, Value, unix_offset_ns
from schemas.trace import TraceContext

DIRECTORY = "traces"
SUFFIX = ".jsonl"

FILES = 16
"""A file is begun anew at this part of all bytes: what is deleted at once is no more than that."""

HEADROOM = 8
"""That part of the bytes stays free, because two processes may write at the same time and each counts alone."""


class StoredEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """`SpanEvent`; `at` is in nanoseconds since 1970."""

    name: str
    at: int
    attributes: Mapping[str, Value] = {}


class StoredSpan(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`Span` as one line, with the process that told of it; times are nanoseconds since 1970."""

    trace: str
    span: str
    parent: str = ""
    name: str
    role: str
    process: str
    kind: Kind = "internal"
    start: int
    end: int
    attributes: Mapping[str, Value] = {}
    events: Sequence[StoredEvent] = ()
    links: Sequence[TraceContext] = ()
    error: str = ""


class _File(NamedTuple):
    changed_ns: int
    path: Path
    size: int


class TraceStore:
    """The writer of one process. `bytes_max` is for the files of all."""

    def __init__(self, store_dir: Path, role: str, process_id: str, *, bytes_max: int) -> None:
        self._directory = store_dir / DIRECTORY
        self._role = role
        self._process = process_id
        self._bytes_max = bytes_max - bytes_max // HEADROOM
        self._file_bytes_max = bytes_max // FILES
        self._path: Path | None = None
        self._written = 0
        self._encode = msgspec.json.Encoder().encode

    def write(self, spans: Sequence[Span]) -> int:
        """Appends them; the number of those it could not keep."""
        offset_ns = unix_offset_ns()
        lines = [self._encode(self._stored(span, offset_ns)) + b"\n" for span in spans]
        kept = [line for line in lines if len(line) <= self._file_bytes_max]
        lost = len(lines) - len(kept)
        for chunk in self._chunks(kept):
            try:
                self._append(b"".join(chunk))
            except OSError:  # a full disk, a directory that went away: what could not be kept is counted
                lost += len(chunk)
        return lost

    def _stored(self, span: Span, offset_ns: int) -> StoredSpan:
        return StoredSpan(
            trace=span.context.trace_id,
            span=span.context.span_id,
            parent=span.parent_id,
            name=span.name,
            role=self._role,
            process=self._process,
            kind=span.kind,
            start=offset_ns + int(span.start * 1e9),
            end=offset_ns + int(span.end * 1e9),
            attributes=span.attributes,
            events=[
                StoredEvent(event.name, offset_ns + int(event.at * 1e9), event.attributes)
                for event in span.events
            ],
            links=span.links,
            error=span.error,
        )

    def _chunks(self, lines: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Parts that each fit one file."""
        chunk: list[bytes] = []
        size = 0
        for line in lines:
            if chunk and size + len(line) > self._file_bytes_max:
                yield chunk
                chunk, size = [], 0
            chunk.append(line)
            size += len(line)
        if chunk:
            yield chunk

    def _append(self, data: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._path is None or self._written + len(data) > self._file_bytes_max:
            self._path = self._directory / f"{self._process}-{time.time_ns()}{SUFFIX}"
            self._written = 0
        self._make_room(len(data))
        # Opened for each batch: another process may have deleted it, and what went into it then would be nowhere.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        self._written += written
        if written < len(data):
            # What comes next must not go on in the middle of a line.
            self._path = None
            raise OSError("the disk is full")

    def _make_room(self, size: int) -> None:
        files = sorted(_files(self._directory))
        total = sum([file.size for file in files])
        for file in files:
            if total + size <= self._bytes_max:
                return
            file.path.unlink(missing_ok=True)
            total -= file.size


def read_spans(store_dir: Path, wanted: Sequence[bytes]) -> list[StoredSpan]:
    """The spans in whose lines one of `wanted` stands, the oldest files first. A line that was cut off is none."""
    spans = []
    decode = msgspec.json.Decoder(StoredSpan).decode
    for file in sorted(_files(store_dir / DIRECTORY)):
        with contextlib.suppress(FileNotFoundError), file.path.open("rb") as lines:
            for line in lines:
                if any(word in line for word in wanted):
                    with contextlib.suppress(msgspec.DecodeError):
                        spans.append(decode(line))
    return spans


def has_spans(store_dir: Path) -> bool:
    """Whether anything is kept there at all."""
    return any(file.size for file in _files(store_dir / DIRECTORY))


def _files(directory: Path) -> list[_File]:
    """Files that went away meanwhile are none."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    found.append(_File(stat.st_mtime_ns, Path(entry.path), stat.st_size))
    return found
