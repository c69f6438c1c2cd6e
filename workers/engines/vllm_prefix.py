"""Forces the logged tokens of a continued request: a logits processor that vLLM runs in the process of its model.

So grammar, penalties, `min_tokens`, stop checks and the seeded random state pass through exactly the states they had.
vLLM has two model runners, each with an interface of its own for this; its settings decide which one runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from workers.engines.vllm_continue import forced_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NEVER = float("-inf")


class ForcedPrefix(AdapterLogitsProcessor):  # type: ignore[misc]
    """For the first model runner, the one on CPUs."""

    def is_argmax_invariant(self) -> bool:
        """It changes what is most likely."""
        return False

    def new_req_logits_processor(self, params: Any) -> Callable[[list[int], Tensor], Tensor] | None:
        """None: nothing to force."""
        ids = forced_ids(params.extra_args, params.seed)
        if not ids:
            return None

        def force(output: list[int], logits: Tensor) -> Tensor:
            made = len(output)
            if made < len(ids):
                logits.fill_(NEVER)
                logits[ids[made]] = 0.0
            return logits

        return force


class ForcedPrefixRows(LogitsProcessor):  # type: ignore[misc]
    """For the second model runner, the usual one on GPUs: requests have slots, and a step has rows of logits."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        super().__init__(vllm_config, req_states)
        self._prompt_len = req_states.prompt_len
        self._forced: dict[int, list[int]] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Takes over a slot from whoever had it."""
        ids = forced_ids(sampling_params.extra_args, sampling_params.seed)
        self._forced.pop(req_idx, None)
        if ids:
            self._forced[req_idx] = ids
        return bool(ids)

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Forces the rows of requests that have not come to the end of their prefix. There is one row per request:
        with drafted tokens, which would have more, this processor is not loaded."""
        if self._forced:
            for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
                ids = self._forced.get(slot)
                if ids is None:
                    continue
                made = int(ctx.seq_lens_upper_bound_np[row]) - int(self._prompt_len.np[slot])
                if 0 <= made < len(ids):
                    logits[row].fill_(NEVER)
                    logits[row, ids[made]] = 0.0
        return logits
