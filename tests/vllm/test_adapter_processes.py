"""The processes of a vLLM engine: none outlives the worker, and the worker learns of the death of any."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vllm.adapter_under_test import CHAT, running
from workers.engines.base import EngineFailed, EngineOutput

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

GONE_S = 20.0
IMPORTED_S = 90.0
"""A child that has only just begun imports vLLM before it can notice that nobody needs it."""

PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.vllm.adapter_under_test import running

async def main():
    async with running(Path(sys.argv[1])):
        print("up", flush=True)
        await asyncio.sleep(3600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def descendants(pid: int) -> list[int]:
    """The processes below one, all the way down."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [pid]
    for above in found:
        found += [child for child, parent in parents if parent == above]
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def is_tracker(pid: int) -> bool:
    """Whether this is Python's own tracker of shared memory, which lives as long as the process."""
    try:
        return "resource_tracker" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except OSError:
        return False


def assert_gone(pids: list[int], within_s: float = GONE_S) -> None:
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"{alive} outlived the worker"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie processes")
@pytest.mark.parametrize("is_loading", [True, False])
def test_kill_9_leaves_nothing_behind(is_loading: bool, tiny_model: Path, tmp_path: Path) -> None:
    program = tmp_path / "holder.py"
    program.write_text(PROGRAM, encoding="utf-8")
    worker = subprocess.Popen(
        [sys.executable, str(program), str(tiny_model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    try:
        assert worker.stdout is not None
        if is_loading:
            while (
                len(engine := descendants(worker.pid)) < 2
            ):  # vLLM's, and Python's tracker of what they share
                assert worker.poll() is None
                time.sleep(0.1)
        else:
            while worker.stdout.readline() != b"up\n":
                assert worker.poll() is None
            engine = descendants(worker.pid)
            assert len(engine) >= 2
    finally:
        worker.kill()
        worker.wait()
    assert_gone(engine, IMPORTED_S if is_loading else GONE_S)


async def test_death_of_the_engine_is_noticed(tiny_model: Path) -> None:
    async with running(tiny_model) as adapter:
        watching = asyncio.ensure_future(adapter.engine.wait())
        key = adapter.submit(CHAT | {"max_tokens": 900, "ignore_eos": True})
        assert isinstance(await adapter.next(key), EngineOutput)
        started = adapter.engine._started  # type: ignore[attr-defined]
        manager = started.engine.engine_core.resources.engine_manager
        os.kill(manager.processes[0].pid, signal.SIGKILL)
        async with asyncio.timeout(GONE_S):
            with pytest.raises(Exception, match="has ended"):
                await watching
        while not adapter.nothing_came(key):
            assert not isinstance(await adapter.next(key), EngineFailed), "another worker goes on with it"


async def test_stop_ends_all(tiny_model: Path) -> None:
    before = descendants(os.getpid())
    async with running(tiny_model) as adapter:
        waiting = asyncio.ensure_future(adapter.engine.wait())
        engine = [pid for pid in descendants(os.getpid()) if pid not in before]
        adapter.submit(CHAT | {"max_tokens": 900, "ignore_eos": True})
    async with asyncio.timeout(GONE_S):
        await waiting
    assert_gone([pid for pid in engine if not is_tracker(pid)])
