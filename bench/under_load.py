"""kill -9 of one of several vLLM workers while each runs a batch of greedy streams.

A batch of another shape rounds differently, so that one token may tip over: what is promised under load is that no
stream ends with an error, that none loses or repeats a token, and that what a client had at the kill stands.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from bench.answer import stream
from bench.engine_cases import GREEDY
from bench.system import System
from bench.transcript import client
from bench.worker_kill import worker_of
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas.ids import ANONYMOUS
from schemas.output import Lease

STREAMS = 16
TOKENS = 200
KILL_AT = 40
"""Chunks of the first stream that gets so far; its worker is killed."""


class Stream(NamedTuple):
    """One client's: whether it came to its end with all its tokens, whether its text is that of the run without a kill,
    and whether another worker went on with it."""

    is_whole: bool
    is_same: bool
    was_continued: bool


def kill_under_load(system: System, model: str) -> list[Stream]:
    """Runs the streams twice, the second time with a kill."""
    system.wait_ready("worker", 2)
    calm = _Crowd(system, model, kill=False).run()
    cut = _Crowd(system, model, kill=True).run()
    leases = asyncio.run(_leases(system.nats_url, [got.rid for got in cut]))
    return [
        Stream(second.is_whole, first.text == second.text, count > 1)
        for first, second, count in zip(calm, cut, leases, strict=True)
    ]


class _Got(NamedTuple):
    rid: str
    text: str
    is_whole: bool


class _Crowd:
    """`STREAMS` clients at once."""

    def __init__(self, system: System, model: str, *, kill: bool) -> None:
        self._system = system
        self._model = model
        self._lock = threading.Lock()
        self._wants_kill = kill

    def run(self) -> list[_Got]:
        """All of them to their end."""
        with ThreadPoolExecutor(STREAMS) as pool:
            return list(pool.map(self._stream, range(STREAMS)))

    def _stream(self, number: int) -> _Got:
        rids: list[str] = []

        def on_chunk(chunk: Any) -> None:
            rids.append(chunk.id.removeprefix("cmpl-"))
            if len(rids) >= KILL_AT:
                self._kill_once(rids[0])

        prompt = f"Stream {number} about the rivers of the {number}th valley."
        body = {"model": self._model, "prompt": prompt, **GREEDY, "max_tokens": TOKENS}
        with client(self._system.url) as official:
            answer = stream(official, "completion", body, on_chunk)
        part = answer.parts[0]
        is_whole = part.finish_reason == "length" and answer.completion_tokens == TOKENS
        return _Got(rids[0], part.text, is_whole)

    def _kill_once(self, rid: str) -> None:
        with self._lock:
            if self._wants_kill:
                self._wants_kill = False
                self._system.kill(worker_of(self._system, rid))


async def _leases(nats_url: str, rids: list[str]) -> list[int]:
    bus = await Bus.connect(nats_url, name="bench", fail=print)
    try:
        log = OutputLog(JetStream(bus))
        chains = [await log.ctl_chain(ANONYMOUS, rid) for rid in rids]
    finally:
        await bus.close()
    return [sum(isinstance(entry.record, Lease) for entry in chain) for chain in chains]
