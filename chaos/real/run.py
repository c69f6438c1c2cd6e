"""A whole run: a system is started, loaded and broken, then left to heal; what is left behind is its history."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from chaos.real.disks import unmount_left
from chaos.real.history import Begun, Fault, Line, Sample, Settled, encode
from chaos.real.inflict import healed, inflict
from chaos.real.nemesis import Step
from chaos.real.schedule import plan_of
from chaos.real.shape import Shape, SystemFailed
from chaos.real.system import Deployment
from chaos.real.tap import Tap
from chaos.real.upgrade import install, replace
from chaos.real.workload import Options
from chaos.real.workload_run import Workload, make_tenants
from infra.bus import Bus
from infra.jetstream import JetStream
from schemas.errors import BrokerAway, BrokerRefused
from schemas.streams import REQUESTS

HISTORY, SYSTEM, OLDER = "history.jsonl", "system", "older"
TENANTS = ["ada", "bee", "cyd"]

CALM_BEFORE_END_S = 10.0
"""The load goes on for so long after the last fault: what is slow then has not healed."""

PATIENCE_S = 90.0
"""Clients may take this long after the last one came. A request whose worker hangs waits for a few time-outs."""

DRAIN_WITHIN_S = 60.0
"""The queue has to be empty so long after the last client has left, whatever was in it."""

SAMPLES_WITHIN_S = 20.0
POLL_S = 0.1
UPGRADE = "rolling upgrade"
UPGRADE_ID = 0
"""Steps of a plan have higher ones."""

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be run. A fault begins every `interval_s` on average; `kinds`: only these; None: all that the system
    can have. `upgrade_from`: a git revision whose processes are replaced by today's under load."""

    seed: int
    duration_s: float
    shape: Shape
    out: Path
    kinds: Sequence[str] | None = None
    interval_s: float = 3.0
    rate_per_s: float = 10.0
    clients_max: int = 200
    upgrade_from: str = ""


class History:
    """The file, written through a buffer that is flushed at every fault: what is left of a run that was cut off says
    what was done to the system last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sampled: dict[str, float] = {}
        """When each process was looked at last."""
        self._file: IO[bytes] = path.open("wb")

    def tell(self, line: Line) -> None:
        """Appends a line."""
        self._file.write(encode(line))
        if isinstance(line, Fault):
            self._file.flush()
        elif isinstance(line, Sample):
            self.sampled[line.process] = line.at

    def close(self) -> None:
        """Nothing comes any more."""
        self._file.close()


@dataclass
class _Failures:
    errors: list[Exception] = field(default_factory=list)

    def raise_first(self) -> None:
        if self.errors:
            raise self.errors[0]


async def run(order: Order) -> Path:
    """Its history. Raises SystemFailed where the system does not start."""
    order.out.mkdir(parents=True, exist_ok=True)
    for part in (SYSTEM, OLDER):  # what an earlier run stored would be taken for this one's
        await unmount_left(order.out / part)
        if (order.out / part).exists():
            shutil.rmtree(order.out / part)
    keys_file = order.out / "keys.json"
    keys_file.unlink(missing_ok=True)
    tenants = make_tenants(keys_file, TENANTS)
    shape = _with_settings(order.shape, {"keys_file": str(keys_file.absolute())})
    history = History(order.out / HISTORY)
    system = Deployment(shape, (order.out / SYSTEM).absolute(), history.tell, seed=order.seed)
    try:
        older = (
            await install(order.upgrade_from, (order.out / OLDER).absolute()) if order.upgrade_from else None
        )
        roles = shape.roles
        version = " to ".join([order.upgrade_from, _version()] if older else [_version()])
        history.tell(Begun(time.time(), order.seed, shape.broker, roles, dict(order.shape.settings), version))
        await system.start()
        try:
            if older is not None and (late := await replace(system, older)):
                raise SystemFailed(f"of {order.upgrade_from} do not serve: {', '.join(late)}")
            await _load(order, system, history, tenants)
        finally:
            await system.stop()
    finally:
        history.close()
    return history.path


async def _load(order: Order, system: Deployment, history: History, tenants: dict[str, str]) -> None:
    failures = _Failures()
    tap = await Tap.connect(system.nats_url, history.tell, failures.errors.append)
    tap.start()
    await _sampled_after(time.time(), system, history)
    load_s = order.duration_s + CALM_BEFORE_END_S
    options = Options(
        seed=order.seed,
        duration_s=load_s,
        rate_per_s=order.rate_per_s,
        clients_max=order.clients_max,
        tenants=tenants,
    )
    workload = Workload(options, doors=system.doors, nats_url=system.nats_url, tell=history.tell)
    steps = plan_of(
        order.seed, system.shape, duration_s=order.duration_s, interval_s=order.interval_s, kinds=order.kinds
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(workload.run(PATIENCE_S))
        breaking = tasks.create_task(_break(order, steps, system, history))
    queued = await _drained(system, failures)
    await healed(system)  # a poisonous request may have taken a worker with it just now
    history.tell(Settled(time.time(), round(time.monotonic() - breaking.result(), 3), queued))
    await _sampled_after(time.time(), system, history)
    await tap.finish()
    failures.raise_first()


async def _break(order: Order, steps: Sequence[Step], system: Deployment, history: History) -> float:
    """When the last fault was over, in monotonic seconds. What does not serve again by then is in the history."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inflict(steps, system, history.tell))
        if order.upgrade_from:
            tasks.create_task(_upgrade(order, system, history))
    over_at = time.monotonic()
    await healed(system)
    return over_at


async def _upgrade(order: Order, system: Deployment, history: History) -> None:
    await asyncio.sleep(order.duration_s / 4)
    history.tell(Fault(time.time(), UPGRADE_ID, UPGRADE, "all", "begin", order.upgrade_from))
    late = await replace(system)
    told = f"not ready in time: {', '.join(late)}" if late else ""
    history.tell(Fault(time.time(), UPGRADE_ID, UPGRADE, "all", "end", told))


async def _drained(system: Deployment, failures: _Failures) -> int:
    """Waits for the queue to be empty; what is in it after all."""
    bus = await Bus.connect(system.nats_url, name="settled", fail=failures.errors.append)
    js = JetStream(bus)
    deadline = time.monotonic() + DRAIN_WITHIN_S
    queued = -1
    while queued and time.monotonic() < deadline:
        try:
            queued = await js.queue_depth(REQUESTS)
        except (BrokerAway, BrokerRefused):
            queued = -1
        await asyncio.sleep(POLL_S)
    await bus.close()
    return queued


async def _sampled_after(at: float, system: Deployment, history: History) -> None:
    """Waits until every process that runs was looked at: what it holds without load is the measure of what it holds
    after it."""
    deadline = time.monotonic() + SAMPLES_WITHIN_S
    while not all(history.sampled.get(name, 0) > at for name in system.members):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(POLL_S)


def _with_settings(shape: Shape, more: dict[str, str]) -> Shape:
    return Shape(
        broker=shape.broker,
        edges=shape.edges,
        schedulers=shape.schedulers,
        workers=shape.workers,
        settings={**shape.settings, **more},
        disk_bytes=shape.disk_bytes,
    )


def _version() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
