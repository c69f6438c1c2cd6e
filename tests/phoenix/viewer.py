"""Arize Phoenix, a viewer that others make: a process that takes spans by OTLP and gives them back by REST."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from bench.system import REPOSITORY
from infra.ports import free_port

PROGRAM = REPOSITORY / ".phoenix" / "bin" / "phoenix"
START_TIMEOUT_S = 180.0
"""It makes its database first: 20 s on a quiet machine, two minutes on a crowded one."""

READ_TIMEOUT_S = 60.0
POLL_S = 0.1
SPANS_MAX = 1000
PROJECT = "default"


class Seen(NamedTuple):
    """A span as the viewer has it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: datetime
    end: datetime
    status: str
    attributes: dict[str, Any]
    events: list[str]


IsWhole = Callable[[list[Seen]], object]


class Phoenix:
    """One viewer on ports of its own, with nothing in it."""

    def __init__(self, folder: Path) -> None:
        port, grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log_path = folder / "phoenix.log"
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "PHOENIX_WORKING_DIR": str(folder),
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(port),
            "PHOENIX_GRPC_PORT": str(grpc_port),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), "serve"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait(lambda: self._get("/healthz") is not None, "Phoenix answers", START_TIMEOUT_S)
        except AssertionError:
            self.stop()
            raise

    @property
    def otlp_endpoint(self) -> str:
        """Where it takes spans."""
        return f"{self.url}/v1/traces"

    def spans_of(self, rid: str, is_whole: IsWhole) -> list[Seen]:
        """The spans of a request and of its batches, by their start, as soon as they are whole."""
        found = self.spans_within(rid, READ_TIMEOUT_S, is_whole)
        assert is_whole(found), f"not whole within {READ_TIMEOUT_S} s:\n{tree(found)}"
        return found

    def spans_within(self, rid: str, within_s: float, is_whole: IsWhole) -> list[Seen]:
        """The same, or what there is of them when the time is over."""
        deadline = time.monotonic() + within_s
        while True:
            found = [span for span in self._spans() if _is_of(span, rid)]
            if is_whole(found) or time.monotonic() > deadline:
                return found
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()

    def _spans(self) -> list[Seen]:
        answer = self._get(f"/v1/projects/{PROJECT}/spans?limit={SPANS_MAX}")
        spans = [_seen(span) for span in answer["data"]] if answer is not None else []
        return sorted(spans, key=lambda span: span.start)

    def _get(self, path: str) -> Any:
        try:
            answer = httpx.get(self.url + path, timeout=30)
        except httpx.TransportError:
            return None
        if answer.status_code != httpx.codes.OK:
            return None
        return answer.json() if answer.headers["content-type"].startswith("application/json") else {}

    def _wait(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            log = self._log_path.read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, f"Phoenix ended: {log}"
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            time.sleep(POLL_S)


def tree(spans: list[Seen]) -> str:
    """The spans as an indented list, for whoever looks at a failure."""
    ids = {span.span_id for span in spans}
    lines = []

    def add(span: Seen, depth: int) -> None:
        took_ms = (span.end - span.start).total_seconds() * 1e3
        lines.append(f"{'  ' * depth}{span.name}  {took_ms:.1f} ms  {span.status}  {span.attributes}")
        for child in spans:
            if child.parent_id == span.span_id and child is not span:
                add(child, depth + 1)

    for span in spans:
        if span.parent_id not in ids:
            add(span, 0)
    return "\n".join(lines)


def _seen(span: dict[str, Any]) -> Seen:
    return Seen(
        name=span["name"],
        trace_id=span["context"]["trace_id"],
        span_id=span["context"]["span_id"],
        parent_id=span["parent_id"] or "",
        start=datetime.fromisoformat(span["start_time"]),
        end=datetime.fromisoformat(span["end_time"]),
        status=span["status_code"],
        attributes=span["attributes"],
        events=[event["name"] for event in span["events"]],
    )


def _is_of(span: Seen, rid: str) -> bool:
    attributes = span.attributes
    return attributes.get("penstock.request.id") == rid or rid in attributes.get("penstock.request.ids", ())
