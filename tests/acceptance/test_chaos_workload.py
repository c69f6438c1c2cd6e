"""Workload, tap and checker on a whole system whose workers are killed: nothing is wrong, and all is seen."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

from bench.system import System
from chaos.real.checker import Evidence, Findings, examine, statistics
from chaos.real.history import Begun, Fault, Line, Settled
from chaos.real.tap import Tap
from chaos.real.workload import Options
from chaos.real.workload_run import Workload, make_tenants
from infra.bus import Bus
from infra.jetstream import JetStream
from schemas.streams import REQUESTS

LOAD_S = 12.0
KILL_EVERY_S = 3.0
PATIENCE_S = 60.0
SEED = 11


def fail(error: Exception) -> None:
    raise error


async def kill_workers(system: System, tell: list[Line]) -> None:
    """One after another, until cancelled."""
    for number in itertools.count(1):
        await asyncio.sleep(KILL_EVERY_S)
        working = [worker for worker in system.processes("worker") if worker.ready]
        if not working:
            continue
        worker = working[0]
        tell.append(Fault(time.time(), number, "kill worker", worker.name, "begin"))
        system.kill(worker)
        tell.append(Fault(time.time(), number, "kill worker", worker.name, "end"))


async def drained(nats_url: str) -> int:
    """How many messages are queued in the end."""
    bus = await Bus.connect(nats_url, name="looks", fail=fail)
    js = JetStream(bus)
    give_up_at = time.monotonic() + PATIENCE_S
    while (queued := await js.queue_depth(REQUESTS)) and time.monotonic() < give_up_at:
        await asyncio.sleep(0.1)
    await bus.close()
    return queued


async def run(system: System, keys: dict[str, str]) -> list[Line]:
    lines: list[Line] = [Begun(time.time(), SEED, "embedded", {}, {}, "")]
    tap = await Tap.connect(system.nats_url, lines.append, fail)
    tap.start()
    options = Options(seed=SEED, duration_s=LOAD_S, rate_per_s=8.0, tenants=keys)
    workload = Workload(options, doors=[system.url], nats_url=system.nats_url, tell=lines.append)
    killing = asyncio.create_task(kill_workers(system, lines))
    await workload.run(PATIENCE_S)
    killing.cancel()
    settled_at = time.time()
    queued = await drained(system.nats_url)
    lines.append(Settled(time.time(), time.time() - settled_at, queued))
    await tap.finish()
    return lines


def told(findings: Findings) -> str:
    return "\n".join(str(violation) for violation in findings.violations)


def test_workers_are_killed_under_load_and_nothing_is_wrong(tmp_path: Path) -> None:
    keys = make_tenants(tmp_path / "keys.json", ["ann", "bob", "cem"])
    system = System(tmp_path / "store", workers=3, ttft_ms=20, itl_ms=15, keys_file=tmp_path / "keys.json")
    try:
        evidence = Evidence(asyncio.run(run(system, keys)))
    finally:
        code = system.stop()
    assert code == 0
    findings = examine(evidence)
    assert not findings.violations, told(findings)
    assert findings.blind == ["I12"], "nobody looked at what processes hold"
    numbers = statistics(evidence)
    assert numbers.faults["kill worker"] >= 2
    assert numbers.attempts["worker_dead"] >= 1, "a kill that hits nobody shows nothing"
    assert numbers.requests >= 60
    assert {"complete", "left"} <= {outcome.split()[0] for outcome in numbers.outcomes}
