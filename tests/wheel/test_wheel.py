"""What is shipped: wheel and source archive, and the wheel alone in an empty environment, started from elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(400)

NEEDED = [
    "infra/deploy/Dockerfile",
    "infra/deploy/compose.yaml",
    "infra/deploy/.env.example",
    "infra/deploy/healthy.py",
    "infra/deploy/broker/node.conf",
    "infra/deploy/balancer/haproxy.cfg",
    "infra/deploy/k8s/base/kustomization.yaml",
    "infra/deploy/systemd/penstock-edge@.service",
]
START_S = 60.0


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive, and the wheel that `build` makes of it."""
    directory = tmp_path_factory.mktemp("dist")
    build("--outdir", str(directory), str(ROOT))
    return directory


@pytest.fixture(scope="module")
def environment(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it needs: no checkout, no tests."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", str(directory))
    installer = [str(directory / "bin/python"), "-m", "pip", "install", "--quiet"]
    run(*installer, "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"), str(wheel_in(dist)))
    return directory


def run(*command: str, cwd: Path | None = None) -> str:
    ran = subprocess.run(command, cwd=cwd, env=clean(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def build(*words: str) -> None:
    run(sys.executable, "-m", "build", "--quiet", *words)


def clean() -> dict[str, str]:
    """Without a path to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def wheel_in(directory: Path) -> Path:
    (wheel,) = directory.glob("*.whl")
    return wheel


def content(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_the_source_archive_makes_the_same_wheel_as_the_checkout(dist: Path, tmp_path: Path) -> None:
    build("--wheel", "--outdir", str(tmp_path), str(ROOT))
    assert content(wheel_in(dist)) == content(wheel_in(tmp_path))


def test_what_runs_it_elsewhere_is_in_it(dist: Path) -> None:
    names = content(wheel_in(dist))
    assert not [name for name in NEEDED if name not in names]
    assert {name.partition("/")[0] for name in names if not name.startswith("penstock-")} == {
        "schemas",
        "infra",
        "edge",
        "scheduler",
        "workers",
    }
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        top = {name.split("/")[1] for name in archive.getnames()}
    assert not top & {"tests", "chaos", "bench", ".venv", "wheels"}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "constraints-vllm.txt"} <= top


def test_its_commands_start(environment: Path, tmp_path: Path) -> None:
    penstock = str(environment / "bin/penstock")
    assert run(penstock, "version", cwd=tmp_path).startswith("0.")
    run(penstock, "--help", cwd=tmp_path)
    run(penstock, "config", "show", cwd=tmp_path)
    for role in ("edge", "scheduler", "workers"):
        run(str(environment / "bin/python"), "-m", role, "--help", cwd=tmp_path)


def test_it_answers(environment: Path, tmp_path: Path) -> None:
    penstock = str(environment / "bin/penstock")
    with (tmp_path / "log").open("wb") as log:
        up = subprocess.Popen(
            [penstock, "up", "--engine", "simulator", "--port", "0", "--broker-port", "0"],
            cwd=tmp_path,
            env=clean(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while not is_ok(penstock, tmp_path):
            assert up.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        answer = run(penstock, "chat", "--max-tokens", "24", "Tell me about rivers", cwd=tmp_path)
        assert len(answer.split()) >= 12
        up.send_signal(signal.SIGTERM)
        assert up.wait(START_S) == 0
    finally:
        up.kill()
        up.wait()


def is_ok(penstock: str, directory: Path) -> bool:
    asked = subprocess.run(
        [penstock, "status", "--json"], cwd=directory, env=clean(), capture_output=True, check=False
    )
    return asked.returncode == 0 and json.loads(asked.stdout).get("health") == "ok"
