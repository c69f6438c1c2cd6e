"""Starts the clients, each in the environment that `make test-clients` made for it, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.system import REPOSITORY

CLIENTS = REPOSITORY / ".clients"
HERE = Path(__file__).parent
PATIENCE_S = 110

PYTHONS = {
    "openai_python": "python",
    "openai_responses_python": "python",
    "anthropic_python": "python",
    "langchain_python": "python",
    "pydantic_ai_python": "python",
    "litellm_python": "litellm",
}
SCRIPTS = ["openai_js", "anthropic_js", "ai_sdk_js"]
ALL = [*PYTHONS, *SCRIPTS]

ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "PYTHONPATH": str(REPOSITORY),
}


def command(client: str) -> list[str]:
    """What starts the client."""
    if client in PYTHONS:
        return [str(CLIENTS / PYTHONS[client] / "bin" / "python"), "-m", f"tests.clients.{client}"]
    # Node looks for packages beside the script.
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, CLIENTS / "js")
    return ["node", str(CLIENTS / "js" / f"{client}.mjs")]


def results(client: str, url: str) -> dict[str, str | None]:
    """What went wrong in each of its calls; None: nothing."""
    ran = subprocess.run(
        [*command(client), url],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    said = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert ran.returncode == 0, ran.stderr
    return {line["call"]: line["error"] for line in said}


class Streaming:
    """One stream of a client, line by line: `{"id", "text"}` for each piece, then `{"end", "error"}`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout

    def next(self) -> dict[str, Any]:
        """The next line."""
        for line in self._lines:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError("the client ended without a word")

    def rest(self) -> tuple[int, dict[str, Any]]:
        """How many pieces come still, and the last line."""
        pieces = 0
        while "end" not in (line := self.next()):
            pieces += 1
        return pieces, line


@contextmanager
def streaming(
    client: str, url: str, prompt: str, tokens: int, headers: dict[str, str], fields: dict[str, Any]
) -> Iterator[Streaming]:
    """A client that streams one answer; it is gone at the end."""
    words = [*command(client), url, prompt, str(tokens), json.dumps(headers), json.dumps(fields)]
    with subprocess.Popen(
        words, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield Streaming(process)
        finally:
            process.kill()
