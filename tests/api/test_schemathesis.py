"""The running API against its own document: what it says of itself is so, whatever it is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.system import System

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
]
"""All but three kinds: not every valid request is accepted (a key that was used before), a cancelled request can still
be looked at, and keys are asked for only where there are some."""


@pytest.mark.parametrize(
    ("examples", "seeds"), [(20, 1), pytest.param(100, 3, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_the_document_is_true(system: System, tmp_path: Path, examples: int, seeds: int) -> None:
    for seed in range(1, seeds + 1):
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{system.url}/openapi.json"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--checks", ",".join(CHECKS)),
                *("--max-examples", str(examples), "--seed", str(seed), "--generation-database", "none"),
                *("--request-timeout", "30", "--continue-on-failure", "--no-color", "--warnings", "off"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stdout[-20_000:] + found.stderr
