"""`penstock up` as a process, with a real broker and roles that do nothing but live: supervision alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.store import is_running

ROOT = Path(__file__).parents[2]
DEADLINE_S = 50.0

API_KEY = "sk-only-for-the-worker"

ROLE = """
import json
import subprocess
import sys

from infra.lifecycle import RoleContext, run_role
from infra.settings import SettingsError

if sys.argv[1] == "--choose":
    asked = dict(word.split("=", 1) for word in sys.argv if "=" in word)
    match asked.get("engine"):
        case "wrong":
            print(json.dumps({{"t": "refusal", "why": "there is no such engine: take another"}}))
        case "crashes":
            raise RuntimeError("chosen badly")
        case engine:
            choice = {{"engine": engine or "e", "model": asked.get("model", "m"), "name": "n"}}
            print(json.dumps({{"t": "choice", "line": "e with m [1]", "commands": ["1.", "2."], **choice}}))
    sys.exit()

async def serve(context: RoleContext) -> None:
    if "{role}" == "worker" and context.settings.engine == "none":
        raise SettingsError("bad setting --engine none (command line): there is no such engine")
    if "{role}" == "worker" and context.settings.upstream:
        assert context.settings.upstream_api_key.get_secret_value() == "{key}"
        assert context.settings.upstream == "http://me:pw@a/v1"
    if "{role}" == "worker" and context.settings.model == "family":
        subprocess.Popen(["sleep", "60"])
        subprocess.Popen(["sleep", "60"], start_new_session=True)
    context.ready()
    await context.stop.wait()

run_role("{role}", serve)
"""


class Up:
    """A running `penstock up` in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for package, role in (("edge", "edge"), ("scheduler", "scheduler"), ("workers", "worker")):
            (directory / package).mkdir()
            (directory / package / "__init__.py").touch()
            (directory / package / "__main__.py").write_text(ROLE.format(role=role, key=API_KEY))
        self.environment = {**os.environ, "PYTHONPATH": f"{directory}:{ROOT}"}
        self.process: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.line(*arguments),
            **self.where(),
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        line = self.line("up", "--port", "0", "--broker-port", "0", *arguments)
        self.process = subprocess.Popen(
            line, **self.where(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self.process

    def line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "infra.cli", *arguments]

    def where(self) -> dict[str, Any]:
        return {"cwd": self.directory, "env": self.environment}

    def processes(self) -> list[dict[str, Any]]:
        status = self.command("status", "--json")
        return list(json.loads(status.stdout)["processes"]) if status.returncode == 0 else []

    def wait_ready(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def complete() -> bool:
            found[:] = self.processes()
            return len(found) == count and all(process["ready"] for process in found)

        wait_for(complete)
        return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    yield running
    if running.process is not None:
        running.process.kill()
        running.process.communicate()


def test_starts_announces_and_drains_in_order(up: Up) -> None:
    process = up.start("--workers", "2", "--edges", "2", "--log-format", "json")
    found = up.wait_ready(6)
    assert [child["role"] for child in found] == ["broker", "scheduler", "worker", "worker", "edge", "edge"]
    assert len({child["id"] for child in found}) == 6
    process.send_signal(signal.SIGINT)
    banner, logs = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "penstock is up" in banner
    assert banner.startswith("penstock runs e with m [1]\n"), "at once, before a model is loaded"
    assert [
        line.split(maxsplit=1)[1] for line in banner.splitlines() if line.startswith(("model ", "engine "))
    ] == [
        "n",
        "e with m [1]",
    ]
    assert "next     1.\n         2.\n" in banner
    assert "curl -N http://127.0.0.1:" in banner
    events = [json.loads(line) for line in logs.splitlines()]
    ended = [event["child"].split("-")[0] for event in events if event["event"] == "ended"]
    assert ended == ["edge", "edge", "worker", "worker", "scheduler", "broker"]
    assert not any(is_running(child["pid"]) for child in found)
    assert up.command("status").returncode == 1


def test_a_killed_child_comes_back_under_a_new_id(up: Up) -> None:
    up.start()
    before = {child["role"]: child for child in up.wait_ready(4)}
    for role in ("worker", "broker"):
        os.kill(before[role]["pid"], signal.SIGKILL)
        wait_for(lambda role=role: before[role]["pid"] not in [child["pid"] for child in up.processes()])  # type: ignore[misc]
        after = {child["role"]: child for child in up.wait_ready(4)}
        assert after[role]["pid"] != before[role]["pid"]
        assert after["edge"] == before["edge"]
    assert after["worker"]["id"] != before["worker"]["id"]


def test_a_killed_child_takes_its_children_along_and_waits_for_none_that_got_away(up: Up) -> None:
    """They hold the pipe of its log, and maybe the device that its successor needs."""
    up.start("--model", "family")
    [before] = [child for child in up.wait_ready(4) if child["role"] == "worker"]
    pid = before["pid"]
    [tied] = [child for child in children_of(pid) if os.getpgid(child) == pid]
    [away] = [child for child in children_of(pid) if child != tied]
    os.kill(pid, signal.SIGKILL)
    try:
        wait_for(lambda: pid not in [child["pid"] for child in up.processes()])
        [after] = [child for child in up.wait_ready(4) if child["role"] == "worker"]
        assert not is_running(tied)
        assert is_running(away)
    finally:
        os.kill(away, signal.SIGKILL)
    for child in children_of(after["pid"]):
        os.kill(child, signal.SIGKILL)


def test_a_second_up_on_the_same_store_is_refused(up: Up) -> None:
    process = up.start()
    up.wait_ready(4)
    second = up.command("up", "--port", "0", "--broker-port", "0")
    assert second.returncode == 2
    assert f"in use by process {process.pid}" in second.stderr
    assert "--store" in second.stderr
    assert len(up.wait_ready(4)) == 4


def test_bad_configuration_of_a_child_stops_all_with_its_words(up: Up) -> None:
    process = up.start("--engine", "none")
    _, logs = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert logs.splitlines()[-1].endswith("bad setting --engine none (command line): there is no such engine")


@pytest.mark.parametrize(
    ("engine", "said"),
    [("wrong", "there is no such engine: take another"), ("crashes", "RuntimeError: chosen badly")],
)
def test_what_no_engine_can_run_starts_nothing(up: Up, engine: str, said: str) -> None:
    refused = up.command("up", "--port", "0", "--broker-port", "0", "--engine", engine)
    assert refused.returncode == 2
    assert said in refused.stderr.splitlines()[-1]
    assert not (up.directory / ".penstock/broker/jetstream").exists(), "the broker has not run"


def test_the_choice_holds_for_all_workers_and_restarts(up: Up) -> None:
    up.start("--workers", "2")
    workers = [child for child in up.wait_ready(5) if child["role"] == "worker"]
    os.kill(workers[0]["pid"], signal.SIGKILL)
    wait_for(lambda: workers[0]["pid"] not in [child["pid"] for child in up.processes()])
    for child in up.wait_ready(5):
        if child["role"] == "worker":
            line = Path(f"/proc/{child['pid']}/cmdline").read_text().split("\0")
            assert {"engine=e", "model=m"} <= set(line)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows command lines in files")
def test_secrets_are_on_no_command_line_and_in_no_log(up: Up) -> None:
    process = up.start(
        "--upstream", "http://me:pw@a/v1", "--upstream-api-key", API_KEY, "--log-level", "debug"
    )
    pids = [child["pid"] for child in up.wait_ready(4)]
    for pid in pids:
        line = Path(f"/proc/{pid}/cmdline").read_text()
        assert API_KEY not in line
        assert "me:pw" not in line
    state = (up.directory / ".penstock/penstock.json").read_text()
    process.send_signal(signal.SIGINT)
    said = "".join(process.communicate(timeout=DEADLINE_S)) + state
    assert process.returncode == 0
    assert "ready" in said
    assert API_KEY not in said
    assert "me:pw" not in said
    up.environment |= {"PENSTOCK_UPSTREAM_API_KEY": API_KEY}
    shown = up.command("config", "show").stdout
    assert "***" in shown
    assert API_KEY not in shown


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
def test_no_orphans_after_kill_9(up: Up) -> None:
    process = up.start()
    pids = [child["pid"] for child in up.wait_ready(4)]
    process.kill()
    process.communicate()
    wait_for(lambda: not any(is_running(pid) for pid in pids))
    status = up.command("status")
    assert status.returncode == 1
    assert "was killed" in status.stderr
    up.start()
    up.wait_ready(4)


@pytest.mark.parametrize("option", ["--port", "--broker-port"])
def test_a_port_in_use_is_refused(up: Up, free_port: int, option: str) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        refused = up.command("up", "--port", "0", "--broker-port", "0", option, str(free_port))
    assert refused.returncode == 2
    assert str(free_port) in refused.stderr
    assert option in refused.stderr


def test_an_unknown_option_is_named(up: Up) -> None:
    refused = up.command("up", "--itl-sm", "5")
    assert refused.returncode == 2
    assert "--itl-sm" in refused.stderr
