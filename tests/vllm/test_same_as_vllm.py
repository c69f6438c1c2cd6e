"""Through the whole pipeline a request is answered as by vLLM's own server: text, calls, reasoning, logprobs, finish
reasons, usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.engine_cases import CASES, REASONING, Case
from bench.same_as_vllm import HEAD, compare, line
from tests.vllm.conftest import Pair

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_answer(case: Case, plain_pair: Pair, tiny_model: Path) -> None:
    assert_same(case, plain_pair, tiny_model)


@pytest.mark.parametrize("case", REASONING, ids=lambda case: case.name)
def test_same_answer_with_reasoning(case: Case, reasoning_pair: Pair, tiny_model: Path) -> None:
    assert_same(case, reasoning_pair, tiny_model)


def assert_same(case: Case, pair: Pair, model: Path) -> None:
    row = compare(pair.reference.url, pair.system.url, str(model), case)
    print(line(row))
    assert row.is_same, HEAD + line(row)
