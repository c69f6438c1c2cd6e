"""How long nothing new is run when the leading scheduler is killed with -9: `python -m bench.scheduler_failover`.

Two schedulers, one worker. The leader is killed while a stream runs; at the same moment a new request is made. Time to
its first token is the failover, as a client meets it: the standby finds out, takes over, and dispatches. Both streams
have to be exact, and each has to have run once.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.result_file import seconds, write_result
from bench.system import Process, System
from bench.transcript import assert_whole, stream
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.kv import KeyValue
from schemas.streams import LEADER_BUCKET

TOKENS = 200
LEADER_KEY = "leader"
RESULT_TIMEOUT_S = 60.0


def main() -> None:
    """Kills `--kills` leaders, prints a line, writes the samples to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        system = System(Path(store), schedulers=2, itl_ms=10, ttft_ms=5)
        try:
            failovers_s = kill_leaders(system, arguments.kills)
        finally:
            system.stop()
    print(f"{arguments.kills} leaders killed: first token of the next request after {seconds(failovers_s)}")
    write_result(arguments.out, failovers_s=failovers_s)


def kill_leaders(system: System, kills: int) -> list[float]:
    """Seconds from each kill to the first token of the next request. Raises AssertionError if a stream is not exact."""
    failovers = []
    for kill in range(kills):
        with ThreadPoolExecutor(1) as pool:
            flows = threading.Event()
            prompt = f"before {kill}"
            running = pool.submit(stream, system.url, prompt, TOKENS, partial(_set, flows))
            system.wait_until(flows.is_set, "a stream flows")
            leader = leader_of(system)
            system.kill(leader)
            failovers.append(first_token_s(system, f"after {kill}"))
            assert_whole(running.result(RESULT_TIMEOUT_S), prompt, TOKENS)
        system.wait_replaced(leader)
    return failovers


def first_token_s(system: System, prompt: str) -> float:
    """Seconds from now to the first text of a new request, which is then read to its exact end."""
    started = time.monotonic()
    first: list[float] = []
    transcript = stream(
        system.url, prompt, 20, lambda _rid, _pieces: first.append(time.monotonic() - started)
    )
    assert_whole(transcript, prompt, 20)
    return first[0]


def leader_of(system: System) -> Process:
    """The scheduler that owns the leader's key, once one of those that run does."""
    found: list[Process] = []

    def look() -> list[Process]:
        owner = asyncio.run(_key_owner(system.nats_url))
        found[:] = [process for process in system.processes("scheduler") if process.id == owner]
        return found

    system.wait_until(look, "a scheduler leads")
    return found[0]


def _set(event: threading.Event, _rid: str, _pieces: int) -> None:
    event.set()


async def _key_owner(nats_url: str) -> str | None:
    bus = await Bus.connect(nats_url, name="bench", fail=print)
    try:
        value = await KeyValue(JetStream(bus), LEADER_BUCKET).get(LEADER_KEY)
    finally:
        await bus.close()
    return None if value is None else value[0].decode()


if __name__ == "__main__":
    main()
