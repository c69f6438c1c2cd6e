"""Requests that bring their engine down, each time: they end with an error, and the system lives on."""

from __future__ import annotations

import openai
import pytest

from bench.system import System
from bench.transcript import MODEL, assert_whole, client, expected, stream
from tests.acceptance.conftest import StartSystem

SLOW_FACTOR = 6
"""What an engine made is stored when it dies at the next token."""


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=2, itl_ms=5, ttft_ms=5, step_s_max=1)


@pytest.mark.parametrize("fault", ["die_at_token", "hang_at_token", "raise_at_token", "oom_at_token"])
def test_what_was_streamed_stands_and_an_error_ends_it(system: System, fault: str) -> None:
    chunks = client(system.url).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": fault}],
        max_tokens=20,
        stream=True,
        extra_body={"penstock_fault": {fault: 3, "slow_factor": SLOW_FACTOR}},
    )
    pieces: list[str] = []
    with pytest.raises(openai.APIError) as failed:
        pieces.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert failed.value.code == "poison"
    assert "".join(pieces) == expected(fault, 3)
    assert_whole(stream(system.url, f"after {fault}", 20), f"after {fault}", 20)
