"""The revision before this one, from its own wheel, beside this one: requests go on while one replaces the other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chaos.real.history import Lived
from chaos.real.members import CHECKOUT, REPOSITORY
from chaos.real.shape import Shape
from chaos.real.upgrade import ORDER, install, replace
from tests.chaos.conftest import Deploy
from tests.chaos.load import Load

SHAPE = Shape(edges=2, schedulers=2, workers=2)


OLDER = "HEAD~1"

# A wheel is built and installed, then twelve processes drain and start one after the other.
pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(ORDER, id="schedulers first"),
        pytest.param(tuple(reversed(ORDER)), id="edges first", marks=pytest.mark.slow),
    ],
)
async def test_requests_go_on_while_each_process_is_replaced(
    deploy: Deploy, tmp_path: Path, order: tuple[str, ...]
) -> None:
    if not knows(OLDER):
        pytest.skip(f"there is no {OLDER} here: a shallow clone, or no repository")
    older = await install(OLDER, tmp_path / "older")
    half = {name: older for name in SHAPE.names("edge", "scheduler", "worker") if name.endswith("-1")}
    system, history = await deploy(SHAPE, half)
    load = Load(system.doors)
    assert await replace(system, CHECKOUT, order) == []
    assert await replace(system, older, order) == [], "and back"
    assert await load.finish() > 20
    codes = [line.code for line in history if isinstance(line, Lived) and line.what == "ended"]
    assert codes == [0] * 12, "each drained and ended well, twice"


def knows(revision: str) -> bool:
    """Whether git has that commit."""
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    found = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True)
    return found.returncode == 0
