"""A rolling upgrade: processes of an older revision, from its own wheel, replaced one by one by those of this one.

The order is what the design promises to work: schedulers first, which speak to everybody; then workers, then edges.
"""

from __future__ import annotations

import asyncio
import io
import site
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from pathlib import Path

from chaos.real.members import CHECKOUT, REPOSITORY, Installation, RoleLaunch
from chaos.real.system import Deployment

ORDER = ("scheduler", "worker", "edge")
READY_S = 60.0


async def install(revision: str, directory: Path) -> Installation:
    """The wheel of a git revision, in an environment of its own that takes everything else from the running one.

    Raises subprocess.CalledProcessError, with what git or pip said in `stderr`.
    """
    return await asyncio.to_thread(_install, revision, directory)


async def replace(
    system: Deployment, installation: Installation = CHECKOUT, order: Sequence[str] = ORDER
) -> list[str]:
    """Stops each process of these roles by SIGTERM and starts it from `installation`, the next when it serves.

    The names of those that did not get ready in time.
    """
    late = []
    for role in order:
        for member in system.of(role):
            before = member.readied
            install_in(system, member.name, installation)
            member.terminate()
            if not await member.wait_ready(READY_S, after=before):
                late.append(member.name)
    return late


def install_in(system: Deployment, name: str, installation: Installation) -> None:
    """The process runs this code from its next start on."""
    launch = system.members[name].launch
    assert isinstance(launch, RoleLaunch), name
    launch.installation = installation


def _install(revision: str, directory: Path) -> Installation:
    source, wheels, environment = (directory / part for part in ("source", "wheels", "environment"))
    source.mkdir(parents=True)
    archive = _run(["git", "archive", "--format=tar", revision], REPOSITORY)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(source, filter="data")
    pip = [sys.executable, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    _run([*pip, *build], directory)
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (wheel,) = wheels.glob("*.whl")
    _run([*pip, "install", "--no-deps", "--target", str(packages), str(wheel)], directory)
    # The directory, not its .pth files: an editable install of this revision must not come along.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    python = str(environment / "bin" / "python")
    # Isolated: neither the working directory nor PYTHONPATH, where newer code may lie, comes before its packages.
    return Installation((python, "-I", "-m"), directory)


def _run(command: list[str], directory: Path) -> bytes:
    return subprocess.run(command, cwd=directory, check=True, capture_output=True).stdout
