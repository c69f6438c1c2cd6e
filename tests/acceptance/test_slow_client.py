"""One client that reads a byte a second: it slows nobody, and when it reads on it gets the exact text."""

from __future__ import annotations

import json
import re
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from bench.system import System
from bench.transcript import MODEL, expected
from tests.acceptance.conftest import StartSystem
from tests.acceptance.streams import Streams
from tests.acceptance.tap import assert_clean, output_logs

ITL_MS = 3
SLOW_TOKENS = 1500
OTHERS = 50
OTHERS_TOKENS = 20
SEGMENT_BYTES = 536
"""A small segment keeps the kernel's send buffer small: some of the answer's kilobytes fit in there, not all."""

RECEIVE_BYTES = 4096
BYTES_PER_S = 1
ENDED_WITHIN_S = 60
"""At its client's pace the answer takes days."""


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(itl_ms=ITL_MS, ttft_ms=5, client_buffer_bytes_max=20_000)


class SlowClient:
    """A streaming chat over a bare socket whose kernel buffers hold little."""

    def __init__(self, url: str, prompt: str, tokens: int) -> None:
        address = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        self._socket.settimeout(60)
        self._socket.connect((address.hostname, address.port))
        messages = [{"role": "user", "content": prompt}]
        body = json.dumps(
            {"model": MODEL, "messages": messages, "max_tokens": tokens, "stream": True}
        ).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: slow\r\nConnection: close\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.received = bytearray()

    def read(self, count: int) -> None:
        self.received += self._socket.recv(count)

    def read_all(self) -> None:
        while data := self._socket.recv(1 << 16):
            self.received += data
        self._socket.close()

    def text(self) -> str:
        """The chat's text: chunks of HTTP put together, then the deltas of the events."""
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        body = bytearray()
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        lines = body.decode().splitlines()
        assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]", lines[-3:]
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def replays(system: System) -> float:
    """How often the edge has read a log again, by its own count."""
    metrics = httpx.get(f"{system.url}/metrics").text
    (count,) = re.findall(r"^penstock_replays_total (\S+)$", metrics, re.MULTILINE)
    return float(count)


def seconds_of_others(system: System, name: str) -> float:
    started = time.monotonic()
    Streams(system, name, count=OTHERS, tokens=OTHERS_TOKENS, flowing=False).assert_all_whole()
    return time.monotonic() - started


def test_a_client_that_hardly_reads_slows_nobody_and_misses_nothing(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    alone_s = seconds_of_others(system, "alone")
    started = time.monotonic()
    slow = SlowClient(system.url, "slow", SLOW_TOKENS)
    slow.read(BYTES_PER_S)
    # A busy machine only ever adds to it.
    beside_s = min(seconds_of_others(system, f"beside {number}") for number in range(3))
    while not any(len(log.ids) == SLOW_TOKENS and log.ends for log in output_logs(system.nats_url).values()):
        assert time.monotonic() < started + ENDED_WITHIN_S, "the worker waits for the slow client"
        slow.read(BYTES_PER_S)
        time.sleep(1 / BYTES_PER_S)  # this is how slow the client is
    ended_s = time.monotonic() - started
    unread = len(slow.received)
    replays_before = replays(system)
    slow.read_all()
    assert slow.text() == expected("slow", SLOW_TOKENS)
    assert replays(system) > replays_before, (
        "it was more than what the edge keeps for it, and came from the log"
    )
    with capsys.disabled():
        print(f"\n{OTHERS} streams alone {alone_s:.2f} s, beside the slow client {beside_s:.2f} s;")
        print(
            f"its request ended after {ended_s:.1f} s, when it had read {unread} of {len(slow.received)} bytes"
        )
    assert len(slow.received) > 10 * (unread + SEGMENT_BYTES), "it was far behind"
    assert beside_s < 3 * alone_s + 1
    assert_clean(system.nats_url, [])
