"""Commands as a user would type them in the working directory, for what tells people what to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib.metadata import distributions
from pathlib import Path


def penstock() -> str:
    """The `penstock` command: by its path in an environment that is not activated."""
    script = Path(sys.executable).parent / "penstock"
    return "penstock" if shutil.which("penstock") or not script.exists() else _from_here(script)


def install(requirement: str) -> str:
    """The command that installs a package into the environment of this process."""
    python = _from_here(Path(sys.executable))
    # Not by looking for the module: setuptools takes that for pip itself at work, and then fails to be imported, and
    # with it whatever needs it, vLLM for one.
    has_pip = any(distributions(name="pip"))
    installer = f"{python} -m pip install" if has_pip else f"uv pip install --python {python}"
    return f"{installer} {shlex.quote(requirement)}"


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
