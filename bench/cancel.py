"""How long a request that nobody reads any more keeps its slot: `python -m bench.cancel`.

One client at a time streams a long answer and closes its connection in mid-stream. The clock runs from that close to
the worker's pull that offers the slot again: the edge has noticed, END(cancelled) is stored, the worker has let go.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench.result_file import seconds, write_result
from bench.system import System
from bench.transcript import MODEL
from infra.bus import Bus
from schemas import subjects
from schemas.dispatch import decode_pull

SLOTS = 4
TOKENS = 20_000
FREED_TIMEOUT_S = 10.0


def main() -> None:
    """Cancels `--cancels` requests, prints a line, writes the samples to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        system = System(Path(store), slots=SLOTS, itl_ms=5, ttft_ms=5)
        try:
            freed_s = asyncio.run(leave_streams(system.url, system.nats_url, arguments.cancels))
        finally:
            system.stop()
    print(f"{arguments.cancels} clients left: slot free after {seconds(freed_s)}")
    write_result(arguments.out, freed_s=freed_s)


async def leave_streams(
    url: str, nats_url: str, cancels: int, *, model: str = MODEL, slots: int = SLOTS, tokens: int = TOKENS
) -> list[float]:
    """Seconds from each client's close to the free slot. The system must have one worker of `slots` and be idle."""
    bus = await Bus.connect(nats_url, name="bench", fail=print)
    free = _FreeSlots(bus)
    samples = []
    try:
        for number in range(cancels):
            await free.wait(slots)
            writer = await flowing_stream(url, f"leave {number}", model, tokens)
            await free.wait(slots - 1)
            started = time.perf_counter()
            writer.close()
            await free.wait(slots)
            samples.append(time.perf_counter() - started)
    finally:
        await bus.close()
    return samples


class _FreeSlots:
    """What the only worker's newest pull says."""

    def __init__(self, bus: Bus) -> None:
        self._free = -1
        self._changed = asyncio.Event()
        bus.subscribe(subjects.PULL, self._on_pull)

    async def wait(self, free: int) -> None:
        """Returns as soon as `free` slots are offered."""
        async with asyncio.timeout(FREED_TIMEOUT_S):
            while self._free != free:
                self._changed.clear()
                await self._changed.wait()

    def _on_pull(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        self._free = decode_pull(payload).free
        self._changed.set()


async def flowing_stream(url: str, prompt: str, model: str, tokens: int) -> asyncio.StreamWriter:
    """The connection of a stream whose first text has come."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    messages = [{"role": "user", "content": prompt}]
    asked = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    while b'"content":' not in (line := await reader.readline()) or b'"content":""' in line:
        assert line, "the stream ended before its first token"
    return writer


if __name__ == "__main__":
    main()
