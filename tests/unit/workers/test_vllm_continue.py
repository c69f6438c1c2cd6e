"""Which part of a prefix vLLM may read, which it must be forced to make again, and with which seed."""

from __future__ import annotations

import pytest

from workers.engines.vllm_continue import (
    RESERVED,
    SAFE,
    forced,
    forced_ids,
    is_readable,
    read_until,
)

DEFAULT: dict[str, object] = dict.fromkeys(SAFE) | {
    "temperature": 1.0,
    "n": 1,
    "stop": [],
    "presence_penalty": 0.0,
    "min_tokens": 0,
    "logprobs": None,
    "structured_outputs": None,
}
GREEDY = DEFAULT | {"temperature": 0.0}


def test_greedy_is_read() -> None:
    assert is_readable(GREEDY, DEFAULT)
    assert is_readable(
        GREEDY | {"max_tokens": 9, "logit_bias": {1: 2.0}, "ignore_eos": True, "seed": 4}, DEFAULT
    )


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0.7},
        {"n": 2},
        {"stop": ["x"]},
        {"presence_penalty": 0.1},
        {"min_tokens": 3},
        {"logprobs": 0},
        {"structured_outputs": object()},
        {"extra_args": {"of": "somebody"}},
        {"a parameter of a later version": True},
    ],
)
def test_what_has_a_state_is_forced(given: dict[str, object]) -> None:
    assert not is_readable(GREEDY | given, DEFAULT)


@pytest.mark.parametrize(
    ("pieces", "read"),
    [
        ([], 0),
        (["a"], 0),
        (["a", "b"], 1),
        (["a", "b", "c"], 2),
        (["a", "", "é"], 1),
        (["", "", "é"], 0),
        (["a", "é", "", ""], 2),
    ],
)
def test_reads_whole_characters_and_never_the_last_token(pieces: list[str], read: int) -> None:
    assert read_until(pieces) == read


def test_each_choice_is_forced_to_its_own() -> None:
    arguments = {RESERVED: forced(40, [[1, 2], [], [3]])}
    assert [forced_ids(arguments, seed) for seed in (40, 41, 42, 43, 39)] == [[1, 2], [], [3], [], []]


def test_a_single_choice_needs_no_seed() -> None:
    assert forced_ids({RESERVED: forced(0, [[1, 2]])}, None) == [1, 2]


@pytest.mark.parametrize("arguments", [None, {}, {"other": 1}, {RESERVED: "of a client"}])
def test_nothing_to_force(arguments: dict[str, object] | None) -> None:
    assert forced_ids(arguments, 5) == []
