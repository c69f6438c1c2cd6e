"""What is explored, and which rule of the protocol may be broken to see that it is needed."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tests.model.state import Budget, CloserKind

Mutation = Literal[
    "",
    "a lease is stored without CAS",
    "a tok is stored without a fence",
    "END is stored without CAS",
    "an owner's END names the newest ctl record",
    "ack before the PubAck of END",
    "an answer to an older publish counts",
    "the log is read before the lease",
    "two appends in flight",
    "other bytes on a retry",
    "END before the last append is acknowledged",
    "hand-off before the last append is acknowledged",
    "the message is settled before END on a cancel",
    "a queue time-out names the newest ctl record",
    "a scheduler acks what a worker took",
    "ack when fenced",
    "a lease over END",
    "the END of a canceller carries n",
    "a re-lease keeps own tokens although the log differs",
    "a fenced worker leases again without a newer delivery",
    "a lease over another record keeps the cause of its delivery",
    "strikes are not folded",
    "every lease without a token is a strike",
    "attempts are not counted",
    "END before the dead letter",
    "a dead letter is written without CAS",
    "signs of progress after being fenced",
    "END found at a delivery is not acknowledged",
    "sequences repeat after a loss",
    "records of a running request age out",
]


class Scope(NamedTuple):
    """How long the output is, how many workers there are and what may go wrong."""

    budget: Budget
    tokens: int = 2
    workers: int = 2
    closers: tuple[CloserKind, ...] = ()
    is_poison: bool = False
    """The engine raises or dies before the first token …"""
    harms_max: int = 99
    """… of these many first deliveries. There is no bound on deliveries, so this bounds the exploration."""
    strikes_max: int = 3
    attempts_max: int = 20

    @property
    def may_be_given_up(self) -> bool:
        """Whether END(error) is a right outcome."""
        return self.is_poison or self.attempts_max < 20
