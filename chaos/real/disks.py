"""A disk of its own for a broker's store, which can be full: a tmpfs, so only root has one."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from chaos.real.endings import to_its_end

SOURCE = "penstock-chaos"
"""What the table of mounts calls it."""

SLACK_BYTES = 64 * 1024
"""What is left on a full disk: some appends still succeed, as they do when a disk fills up by itself."""


class Disk:
    """A tmpfs at `path`, mounted from `mount` until `unmount`."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes

    @property
    def is_mounted(self) -> bool:
        """Whether it is there."""
        return self.path.is_mount()

    async def mount(self) -> None:
        """Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        await _run("mount", "-t", "tmpfs", "-o", f"size={self.size_bytes}", SOURCE, str(self.path))

    async def fill(self) -> None:
        """No room is left but `SLACK_BYTES`. Made smaller rather than filled, which would cost the memory."""
        used = os.statvfs(self.path)
        await self._resize((used.f_blocks - used.f_bfree) * used.f_frsize + SLACK_BYTES)

    async def free(self) -> None:
        """All of its size is there again."""
        await self._resize(self.size_bytes)

    async def unmount(self) -> None:
        """What was on it is gone."""
        await _run("umount", "--lazy", str(self.path))

    async def _resize(self, size_bytes: int) -> None:
        await _run("mount", "-o", f"remount,size={size_bytes}", str(self.path))


async def can_mount() -> bool:
    """Whether this process may mount a disk; a container's root often may not."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk(Path(directory) / "disk", 1 << 20)
        try:
            await disk.mount()
        except OSError:
            return False
        finally:
            if disk.is_mounted:
                await disk.unmount()
        return True


async def unmount_left(directory: Path) -> None:
    """What a run that was killed has left mounted under the directory."""
    for path in _mounted_in(directory):
        await _run("umount", "--lazy", str(path))


def _mounted_in(directory: Path) -> list[Path]:
    table = Path("/proc/self/mounts")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    found = (line.split(" ")[:2] for line in lines)
    ours = [Path(where.replace("\\040", " ")) for source, where in found if source == SOURCE]
    return [path for path in ours if path.is_relative_to(directory.absolute())]


async def _run(*words: str) -> None:
    await to_its_end(_ran(*words))


async def _ran(*words: str) -> None:
    # In a session of its own: a Ctrl-C must not reach it half-way.
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise OSError(f"{' '.join(words)}: {errors.decode(errors='replace').strip()}")
