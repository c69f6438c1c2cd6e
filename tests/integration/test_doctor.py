"""`penstock doctor` and what a worker says it would run, as processes; looking changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.broker import Broker

ROOT = Path(__file__).parents[2]
ANY_PORTS = ("--port", "0", "--broker-port", "0")


@pytest.fixture(autouse=True)
def _in_an_empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def diagnosis(*options: str) -> tuple[int, dict[str, Any], dict[str, dict[str, str]]]:
    """Exit code, the whole, and its checks by name."""
    done = run("infra.cli", "doctor", "--json", "--engine", "simulator", *options)
    said = json.loads(done.stdout)
    return done.returncode, said, {check["name"]: check for check in said["checks"]}


def test_a_machine_that_can_start(tmp_path: Path) -> None:
    code, said, checks = diagnosis(*ANY_PORTS)
    assert (code, said["works"]) == (0, True)
    assert (said["choice"]["engine"], said["choice"]["model"]) == ("simulator", "penstock-sim")
    assert not [check for check in checks.values() if check["state"] == "problem"]
    assert {
        "python",
        "nats-server",
        "broker",
        "HTTP port",
        "store",
        "disk",
        "CUDA",
        "vLLM",
        "llama.cpp",
    } <= set(checks)
    assert checks["nats-server"]["found"].startswith("v2.")
    for name in ("vLLM", "llama.cpp"):
        assert (checks[name]["found"].startswith("not installed")) == ("pip install" in checks[name]["todo"])
    assert list(tmp_path.iterdir()) == [], "a look leaves nothing behind"


@pytest.mark.parametrize(("option", "check"), [("--port", "HTTP port"), ("--broker-port", "broker")])
def test_a_port_in_use(free_port: int, option: str, check: str) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        code, said, checks = diagnosis(*ANY_PORTS, option, str(free_port))
    assert (code, said["works"], checks[check]["state"]) == (1, False, "problem")
    assert option in checks[check]["todo"]


def test_an_external_broker(broker: Broker, free_port: int) -> None:
    code, _, checks = diagnosis("--port", "0", "--connect", broker.url.replace("//", "//me:pw@"))
    assert (code, checks["broker"]["state"]) == (0, "ok")
    assert "with JetStream" in checks["broker"]["found"]
    assert "me:pw" not in checks["broker"]["found"]
    code, _, checks = diagnosis("--port", "0", "--connect", f"nats://127.0.0.1:{free_port}")
    assert (code, checks["broker"]["state"]) == (1, "problem")
    code, _, checks = diagnosis("--port", "0", "--connect", broker.monitor_url.replace("http:", "nats:"))
    assert (code, checks["broker"]["state"]) == (1, "problem")


def test_for_people_it_is_a_table_that_ends_with_the_verdict() -> None:
    done = run("infra.cli", "doctor", *ANY_PORTS, "--model", "no-such-file.gguf")
    assert done.returncode == 1
    assert "✓  python" in done.stdout
    assert "penstock up would not start:" in done.stdout
    assert done.stderr == ""


def test_what_a_worker_says_it_would_run() -> None:
    said = run("workers", "--choose", "--set", "engine=simulator")
    assert (said.returncode, json.loads(said.stdout)["model"]) == (0, "penstock-sim")
    refused = run("workers", "--choose", "--set", "model=no-such-file.gguf")
    assert (refused.returncode, json.loads(refused.stdout)["t"]) == (0, "refusal")
    broken = run("workers", "--choose", "--set", "slots=x")
    assert broken.returncode == 2
    assert "slots" in broken.stderr


def test_a_bare_worker_refuses_what_it_cannot_run() -> None:
    refused = run("infra.cli", "worker", "--model", "no-such-file.gguf", "--log-format", "json")
    assert refused.returncode == 2
    assert "no-such-file.gguf" in refused.stderr
