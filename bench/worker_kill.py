"""How long a stream stalls when its worker is killed with -9: `python -m bench.worker_kill`.

One stream at a time through the official client; the process that holds its lease is killed at a different token each
time. The same stream has to go on, on another worker or on the one that `up` starts anew, and to end with exactly the
reference text. The stall is the longest silence between two pieces of text, as the client sees it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from bench.result_file import seconds, write_result
from bench.system import Process, System
from bench.transcript import assert_whole, stream
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas.ids import ANONYMOUS
from schemas.output import Lease

TOKENS = 60
TRIES = 10


def main() -> None:
    """Kills with two workers and with one, prints a line for each, writes the samples to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    stalls_s = {}
    for workers in (2, 1):
        with tempfile.TemporaryDirectory() as store:
            system = System(Path(store), workers=workers, itl_ms=5, ttft_ms=5)
            try:
                stalls_s[f"{workers} workers"] = kill_workers(system, arguments.kills)
            finally:
                system.stop()
        print(f"{arguments.kills} kills, {workers} worker(s): {summary(stalls_s[f'{workers} workers'])}")
    write_result(arguments.out, stalls_s=stalls_s)


def kill_workers(system: System, kills: int, tokens: int = TOKENS) -> list[float]:
    """Seconds of stall of each stream of `tokens`. Raises AssertionError if one does not end whole."""
    return [
        _stall_s(system, f"kill {kill}", tokens, 1 + kill * (tokens - 5) // kills) for kill in range(kills)
    ]


def _stall_s(system: System, prompt: str, tokens: int, at_token: int) -> float:
    """Kills the stream's worker at that token. A stream that has ended before is no sample: on a busy machine it takes
    longer to find its worker than the stream lasts."""
    killed: list[Process] = []
    looked_for: set[str] = set()

    def kill_once(rid: str, pieces: int) -> None:
        if pieces >= at_token and rid not in looked_for:
            looked_for.add(rid)
            killed.extend(holder_of(system, rid))
            for victim in killed:
                system.kill(victim)

    for _ in range(TRIES):
        transcript = stream(system.url, prompt, tokens, kill_once)
        assert_whole(transcript, prompt, tokens)
        if killed:
            system.wait_replaced(killed[0])
            return transcript.stall_s
    raise AssertionError(f"{TRIES} streams ended before their workers could be killed")


def summary(stalls: list[float]) -> str:
    """The line that is printed."""
    return f"stall {seconds(stalls)}"


def worker_of(system: System, rid: str) -> Process:
    """The process whose lease the request runs under."""
    found = holder_of(system, rid)
    assert found, f"{rid} has ended"
    return found[0]


def holder_of(system: System, rid: str) -> list[Process]:
    """The process whose lease the request runs under; none when it has ended."""

    async def read() -> str | None:
        bus = await Bus.connect(system.nats_url, name="bench", fail=print)
        try:
            entry = await OutputLog(JetStream(bus)).last_ctl(ANONYMOUS, rid)
        finally:
            await bus.close()
        assert entry is not None
        return entry.record.worker if isinstance(entry.record, Lease) else None

    leased_by = asyncio.run(read())
    if leased_by is None:
        return []
    found = [process for process in system.processes("worker") if leased_by.startswith(process.id)]
    assert found, f"{leased_by} is none of {system.processes('worker')}"
    return found


if __name__ == "__main__":
    main()
