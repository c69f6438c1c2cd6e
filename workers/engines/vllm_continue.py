"""How vLLM goes on after a prefix: which part of it is read like a prompt, and which is made again by force. Pure.

Reading costs one prefill but loses what lives on the output side: grammar, penalties, the seeded random state,
logprobs. Forcing costs one decode step per token and loses nothing. So a request is read only where all that it asks
for is known to depend on nothing but the tokens before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RESERVED = "penstock"
"""The key of a request's extra arguments in which the logits processor finds what to force."""

SAFE = frozenset(
    {
        "_all_stop_token_ids",
        "_eos_token_id",
        "allowed_token_ids",
        "ignore_eos",
        "logit_bias",
        "max_tokens",
        "min_p",
        "output_kind",
        "repetition_penalty",  # counts the prompt's tokens like its own
        "seed",
        "skip_clone",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_p",
    }
)
"""Sampling parameters under which the next token of a greedy request depends on the tokens before it alone, whatever
part of them was the prompt. Anything else, of this version of vLLM or a later one, must have its default."""


def is_readable(given: Mapping[str, object], default: Mapping[str, object]) -> bool:
    """Whether prompt + prefix is exact: greedy, and nothing set that is not known to be harmless."""
    if given.get("temperature") != 0.0:
        return False
    return all(name in SAFE or given[name] == default.get(name) for name in given)


def read_until(pieces: Sequence[str]) -> int:
    """How many tokens of a prefix may be read: up to the last place where the text was complete, with no part of a
    character pending, and never the last token, which has to be made for its stop check. `pieces` is the text that
    each token released."""
    for index in range(len(pieces) - 2, -1, -1):
        if pieces[index]:
            return index + 1
    return 0


def forced(seed: int, prefixes: list[list[int]]) -> dict[str, object]:
    """What the logits processor reads of a request: the tokens of each choice. `seed` is the first choice's: vLLM
    gives choice i the seed + i, by which the processor tells them apart."""
    return {"seed": seed, "prefixes": prefixes}


def forced_ids(extra_args: Mapping[str, object] | None, seed: int | None) -> list[int]:
    """The other way round, for one choice; empty: nothing to force."""
    told = (extra_args or {}).get(RESERVED)
    if not isinstance(told, dict):
        return []
    prefixes: list[list[int]] = told["prefixes"]
    choice = 0 if len(prefixes) == 1 else (seed or 0) - int(told["seed"])
    return prefixes[choice] if 0 <= choice < len(prefixes) else []
