"""vLLM's own OpenAI server, and the flags that make a Penstock worker run the same engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from bench.system import REPOSITORY
from infra.ports import free_port

START_TIMEOUT_S = 240.0
"""A cold start imports all of vLLM, on a busy machine."""

POLL_S = 0.2
LENGTH = 1024
SEQUENCES = 16

ENGINE_ARGS = ["enforce-eager", "enable-auto-tool-choice", "tool-call-parser=hermes"]
REASONING_ARGS = ["reasoning-parser=qwen3"]


def penstock_flags(model: Path, *, reasoning: bool = False) -> dict[str, Any]:
    """Settings of a system whose workers run vLLM as `VllmServer` does, in float32: two runs can be
    compared."""
    return {
        "engine": "vllm",
        "model": str(model),
        "max_model_len": LENGTH,
        "max_num_seqs": SEQUENCES,
        "dtype": "float32",
        "engine_arg": _engine_args(reasoning=reasoning),
    }


class VllmServer:
    """The server process, as `vllm serve` runs it: `url` is its address."""

    def __init__(self, model: Path, log: Path, *, reasoning: bool = False) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        flags = [f"--{argument}" for argument in _engine_args(reasoning=reasoning)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"),
                    *("--model", str(model), "--host", "127.0.0.1", "--port", str(port)),
                    *("--max-model-len", str(LENGTH), "--max-num-seqs", str(SEQUENCES), "--dtype", "float32"),
                    *flags,
                ],
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Until it answers; fails with the end of its log."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, f"the server ended:\n{self._log_tail()}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{self._log_tail()}"
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Ends it with its engine, which is a process of the same group."""
        self._process.terminate()
        try:
            self._process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])


def _engine_args(*, reasoning: bool) -> list[str]:
    return [*ENGINE_ARGS, *(REASONING_ARGS if reasoning else [])]
