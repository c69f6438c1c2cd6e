"""What is explored, and which rule of the protocol may be broken to see that it is needed."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tests.model.state import Budget

Mutation = Literal[
    "",
    "a lease is stored without CAS",
    "a tok is stored without a fence",
    "END is stored without CAS",
    "ack before the PubAck of END",
    "the log is read before the lease",
    "two appends in flight",
    "other bytes on a retry",
    "END before the last append is acknowledged",
    "hand-off before the last append is acknowledged",
    "the message is settled before END on a cancel",
    "ack when fenced",
    "a lease over END",
    "the END of a canceller carries n",
    "a re-lease keeps own tokens although the log differs",
    "a lease over another record keeps the cause of its delivery",
    "strikes are not folded",
    "every lease without a token is a strike",
    "signs of progress after being fenced",
    "END found at a delivery is not acknowledged",
]


class Scope(NamedTuple):
    """How long the output is, how many workers there are and what may go wrong."""

    budget: Budget
    tokens: int = 2
    workers: int = 2
    is_cancelled: bool = False
    is_poison: bool = False
    """The engine raises or dies before the first token …"""
    harms_max: int = 99
    """… of these many first deliveries. There is no bound on deliveries, so this bounds the exploration."""
    strikes_max: int = 3
