"""A disk of its own for a broker's store, which can be full: a tmpfs, so only root has one."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

SLACK_BYTES = 64 * 1024
"""What is left on a full disk: some appends still succeed, as they do when a disk fills up by itself."""


class Disk:
    """A tmpfs at `path`, mounted from `mount` until `unmount`."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.is_mounted = False

    async def mount(self) -> None:
        """Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        await _run("mount", "-t", "tmpfs", "-o", f"size={self.size_bytes}", "penstock-chaos", str(self.path))
        self.is_mounted = True

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
        self.is_mounted = False

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
        await disk.unmount()
        return True


async def _run(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise OSError(f"{' '.join(words)}: {errors.decode(errors='replace').strip()}")
