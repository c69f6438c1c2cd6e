"""The logits processor of vLLM's second model runner, which needs a GPU to be run by vLLM itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from workers.engines.vllm_continue import RESERVED, forced

torch = pytest.importorskip("torch")


def test_rows_of_slots_are_forced_until_their_prefix_ends() -> None:
    from workers.engines.vllm_prefix import ForcedPrefixRows

    prompt_len = SimpleNamespace(np=numpy.array([0, 4, 0, 9]))
    processor: Any = ForcedPrefixRows(None, SimpleNamespace(prompt_len=prompt_len))
    assert processor.add_request(1, params([[7, 8]], seed=3))
    assert not processor.add_request(3, SimpleNamespace(extra_args=None, seed=None))

    def chosen(slots: list[int], lengths: list[int]) -> list[int]:
        logits = torch.arange(20.0).reshape(2, 10)
        context = SimpleNamespace(
            idx_mapping_np=numpy.array(slots), seq_lens_upper_bound_np=numpy.array(lengths)
        )
        return list(processor.apply(logits, context).argmax(dim=1).tolist())

    assert chosen([1, 3], [4, 9]) == [7, 9]
    assert chosen([3, 1], [10, 5]) == [9, 8]
    assert chosen([3, 1], [11, 6]) == [9, 9], "its prefix has ended"
    assert chosen([1, 3], [2, 9]) == [9, 9], "its prompt is still being read"
    assert not processor.add_request(1, SimpleNamespace(extra_args=None, seed=None))
    assert chosen([1, 3], [4, 9]) == [9, 9], "another request has the slot"


def test_the_first_runner_forces_one_request() -> None:
    from workers.engines.vllm_prefix import ForcedPrefix

    processor: Any = ForcedPrefix(None, None, False)
    force = processor.new_req_logits_processor(params([[7, 8]], seed=3))
    for output, token in (([], 7), ([7], 8), ([7, 8], 9)):
        assert int(force(output, torch.arange(10.0)).argmax()) == token
    assert processor.new_req_logits_processor(SimpleNamespace(extra_args=None, seed=None)) is None


def params(prefixes: list[list[int]], seed: int) -> SimpleNamespace:
    return SimpleNamespace(extra_args={RESERVED: forced(seed, prefixes)}, seed=seed)
