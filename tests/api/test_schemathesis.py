"""The running API against its own document: what it says of itself is so, whatever it is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.system import System

CONFIG = Path(__file__).with_name("schemathesis.toml")
"""All checks, but for what is said there."""


@pytest.mark.parametrize(
    ("examples", "seeds"), [(20, 1), pytest.param(100, 3, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_the_document_is_true(system: System, tmp_path: Path, examples: int, seeds: int) -> None:
    for seed in range(1, seeds + 1):
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
                *("run", f"{system.url}/openapi.json"),
                *("--phases", "examples,coverage,fuzzing,stateful"),
                *("--max-examples", str(examples), "--seed", str(seed), "--generation-database", "none"),
                *("--request-timeout", "30", "--continue-on-failure", "--no-color", "--warnings", "off"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stdout[-20_000:] + found.stderr
