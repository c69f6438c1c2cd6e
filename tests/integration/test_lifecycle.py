"""A role's process from outside: signals, exit codes, readiness, deadlines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20.0

ROLE = """
import asyncio
from infra.lifecycle import RoleContext, run_role
from infra.settings import SettingsError

async def crash() -> None:
    raise ValueError("the background broke")

async def linger() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def serve(context: RoleContext) -> None:
    {body}

run_role("worker", serve)
"""


@contextmanager
def role(body: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A role process that has not said yet that it is ready; its stdout is its ready pipe."""
    program = ROLE.format(body=body)
    command = [sys.executable, "-c", program, "--ready-fd", "1", "--id", "worker-1", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "ready\n"


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, errors


def test_first_signal_drains() -> None:
    with role("context.ready(); context.ready(); await context.stop.wait()") as process:
        assert ready(process)
        process.terminate()
        code, errors = end(process)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert code == 0
    assert [line["event"] for line in lines] == ["ready", "stopping", "stopped"]
    assert {(line["role"], line["id"]) for line in lines} == {("worker", "worker-1")}
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_second_signal_leaves_at_once() -> None:
    with role("context.ready(); await context.stop.wait(); await asyncio.sleep(3600)") as process:
        assert ready(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        # The second one must surely come after the first one was heard.
        while json.loads(process.stderr.readline())["event"] != "stopping":
            pass
        process.send_signal(signal.SIGINT)
        code, _ = end(process)
    assert code == 128 + signal.SIGINT


def test_a_stop_before_it_was_ready_ends_it_at_once() -> None:
    """It waits for a broker that is away, say: there is nothing to drain."""
    with role("print('ready', flush=True); await asyncio.sleep(3600)") as process:
        assert ready(process)
        process.terminate()
        code, errors = end(process)
    assert code == 0
    assert "not drained in time" not in errors


def test_a_drain_has_a_deadline() -> None:
    with role("context.ready(); await linger()", "--set", "drain_timeout_s=0.2") as process:
        assert ready(process)
        process.terminate()
        code, errors = end(process)
    assert code == 1
    assert "not drained in time" in errors


def test_a_crashed_background_task_ends_the_process() -> None:
    with role("context.spawn(crash(), 'crash'); await context.stop.wait()") as process:
        code, errors = end(process)
    assert code == 1
    assert "the background broke" in errors


def test_a_crash_next_to_a_cleanup_that_hangs_ends_the_process_too() -> None:
    body = "context.spawn(crash(), 'crash'); await linger()"
    with role(body, "--set", "drain_timeout_s=0.2") as process:
        code, _ = end(process)
    assert code == 1


def test_a_failed_callback_ends_the_process() -> None:
    with role("context.fail(OSError('connection lost')); await context.stop.wait()") as process:
        code, errors = end(process)
    assert code == 1
    assert "connection lost" in errors


def test_background_tasks_end_with_serve() -> None:
    body = "context.spawn(asyncio.sleep(3600), 'sleep'); context.ready(); await context.stop.wait()"
    with role(body) as process:
        assert ready(process)
        process.terminate()
        code, _ = end(process)
    assert code == 0


def test_an_end_that_nobody_asked_for_is_an_error() -> None:
    with role("await asyncio.sleep(0)") as process:
        code, errors = end(process)
    assert code == 1
    assert "without being asked" in errors


def test_bad_configuration_exits_with_2_and_one_line() -> None:
    with role("pass", "--set", "slots=none") as process:
        code, errors = end(process)
    assert code == 2
    assert errors == (
        "penstock worker: bad setting --slots none (command line): "
        "Input should be a valid integer, unable to parse string as an integer\n"
    )
    with role(
        "raise SettingsError('bad setting --engine x (command line): there is no such engine')"
    ) as process:
        code, errors = end(process)
    assert code == 2
    assert errors == "penstock worker: bad setting --engine x (command line): there is no such engine\n"


def test_an_id_that_does_not_fit_a_subject_is_refused() -> None:
    with role("pass", "--id", "worker.1") as process:
        code, errors = end(process)
    assert code == 2
    assert "worker.1" in errors


def test_library_logs_use_the_same_renderer() -> None:
    warn = "import logging; logging.getLogger('uvicorn').warning('too %s', 'slow')"
    with role(f"{warn}; context.ready(); await context.stop.wait()") as process:
        assert ready(process)
        os.kill(process.pid, signal.SIGTERM)
        _, errors = end(process)
    line = json.loads(errors.splitlines()[0])
    assert (line["event"], line["logger"], line["level"]) == ("too slow", "uvicorn", "warning")
