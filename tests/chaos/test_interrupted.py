"""A run that is interrupted leaves nothing behind, whenever it is."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.real.__main__ import EXIT_FAILED
from chaos.real.disks import Disk, can_mount, unmount_left
from chaos.real.members import REPOSITORY, Member
from chaos.real.run import SYSTEM

WITHIN_S = 60.0


def processes_of(directory: Path) -> list[str]:
    """The command lines of processes that were told of the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in words:
            found.append(words)
    return found


def mounts_of(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if str(directory) in line]


@pytest.mark.parametrize("moment", ["broker-1.conf", "worker-1.log"])
@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT, signal.SIGTERM]])
def test_a_signal_ends_a_run_and_all_that_it_made(
    tmp_path: Path, moment: str, numbers: list[signal.Signals]
) -> None:
    words = [
        "--duration",
        "60",
        "--workers",
        "1",
        "--edges",
        "1",
        "--schedulers",
        "1",
        "--out",
        str(tmp_path),
    ]
    run = subprocess.Popen(
        [sys.executable, "-m", "chaos.real", "run", *words], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + WITHIN_S
        while not (tmp_path / SYSTEM / moment).exists():
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        for number in numbers:
            run.send_signal(number)
            time.sleep(0.05)  # one by one: signals of one number that come together are one
        _, errors = run.communicate(timeout=WITHIN_S)
        assert (mounts_of(tmp_path), processes_of(tmp_path)) == ([], []), errors
        # The last of several may come when all is cleaned up, and Python itself ends.
        assert run.returncode in {EXIT_FAILED, *(-number for number in numbers[1:])}, errors
    finally:
        run.kill()
        run.communicate()


class _Slow:
    """A process that takes its time to be there, and ends when it is killed."""

    pid = 0

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self.launching = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self) -> _Slow:
        self.launching.set()
        await self.go_on.wait()
        self._process = await asyncio.create_subprocess_exec("sleep", "600")
        self.pid = self._process.pid
        return self

    async def wait(self) -> int:
        assert self._process is not None
        return await self._process.wait()

    async def ready(self) -> bool:
        return True


async def test_a_process_that_is_ended_while_it_is_started_ends(tmp_path: Path) -> None:
    slow = _Slow()
    member = Member("broker-1", "broker", slow, tmp_path / "log", lambda _line: None)
    life = asyncio.create_task(member.run())
    await slow.launching.wait()
    member.end()
    member.kill()
    slow.go_on.set()
    await asyncio.wait_for(life, WITHIN_S)


@pytest.mark.skipif(not asyncio.run(can_mount()), reason="NOT CHECKED: mounts need root")
async def test_what_a_killed_run_left_mounted_is_taken_away_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / "with space" / SYSTEM / "broker-1"
    other = tmp_path / "another" / "broker-1"
    for path in (left, other):
        await Disk(path, 1 << 20).mount()
    await unmount_left(tmp_path / "with space")
    assert (left.is_mount(), other.is_mount()) == (False, True)
    await Disk(other, 1 << 20).unmount()
