"""Which request an idempotency key means. Pure.

A key names a lineage: generation 0, and one more after each run that did not end ok, up to a bound. The rids of all of
them follow from the key, so every edge comes to the same ones and there is nothing to remember but the logs themselves.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge.errors import Problem
from schemas.ids import RID_BYTES, RequestId, TenantKey, request_id

GENERATIONS_MAX = 8
"""Runs of one key. After the last one has failed its error is the answer: a bound on what retries alone can cost."""

State = Literal["absent", "open", "ok", "not_ok"]
"""How a generation stands: no trace of it, queued or running, ended well, ended otherwise."""


@dataclass(frozen=True)
class Attach:
    """Read this generation: it is there."""

    generation: int


@dataclass(frozen=True)
class Fresh:
    """Publish this generation: nobody has yet."""

    generation: int


def choose(states: Sequence[State]) -> Attach | Fresh:
    """What a request with the key means, given how all its generations stand.

    The newest one counts. Older ones may have expired from the log already, since their END came first.
    """
    assert len(states) == GENERATIONS_MAX, "every generation is looked at"
    newest = max((g for g, state in enumerate(states) if state != "absent"), default=None)
    if newest is None:
        return Fresh(0)
    if states[newest] == "not_ok" and newest + 1 < GENERATIONS_MAX:
        return Fresh(newest + 1)
    return Attach(newest)


def rids_of(secret: bytes, tenant: TenantKey, key: str) -> list[RequestId]:
    """The rids of a key's generations. Without the secret nobody can tell them, whatever keys they guess."""
    # Neither a tenant nor a key holds a zero byte, so no two triples are one text.
    texts = [f"{tenant}\0{key}\0{generation}" for generation in range(GENERATIONS_MAX)]
    return [request_id(hmac.digest(secret, text.encode(), "sha256")[:RID_BYTES]) for text in texts]


def same_body(known: str, given: str) -> bool:
    """Whether two fingerprints may be of one body; an empty one is that of a request that ended before it was read."""
    return not known or known == given


def mismatch() -> Problem:
    """The key, or the rid, has been used for something else."""
    return Problem(
        "idempotency_mismatch",
        "this idempotency key was used with another request body; send a new request with a new key",
        "idempotency-key",
    )
