"""What one answer took, for who asks for it or counts it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from edge.dialect import Elapsed
from schemas.output import End


class Measures(NamedTuple):
    """Milliseconds from the request's arrival to its first token and to its end, and all of its tokens by the time to
    its end. `first_token_ms`: None where nobody knows it."""

    first_token_ms: float | None
    total_ms: float
    tokens_per_second: float


def measured(end: End, tokens: int, elapsed: Elapsed | None) -> Measures | None:
    """The measures of a request of `tokens` tokens: on this edge's clock if it began here, else the last attempt's on
    its worker's. None: nobody told.

    A first token that nobody here watched was made as long before the end as its worker says.
    """
    told = end.timings
    if elapsed is not None:
        total_ms = elapsed.total_s * 1e3
    elif told is not None:
        total_ms = told.total_ms
    else:
        return None
    firsts = []
    if elapsed is not None and elapsed.first_token_s is not None:
        firsts.append(elapsed.first_token_s * 1e3)
    if told is not None and tokens:
        firsts.append(max(0.0, total_ms - (told.total_ms - told.first_token_ms)))
    rate = tokens / total_ms * 1e3 if total_ms else 0.0
    # The sooner one: a first token seen late was made in time, and a later attempt's first is not the request's.
    first_ms = round(min(firsts), 3) if firsts else None
    return Measures(first_ms, round(total_ms, 3), round(rate, 3))


def tokens_of(end: End, offset: int) -> int:
    """Tokens of the output; `offset` of them were passed on."""
    return end.usage.completion_tokens if end.usage is not None else offset
