"""One state of the world around one request: its log, its message, who works on it, and what is on its way."""

from __future__ import annotations

from typing import Literal, NamedTuple

from schemas.output import Cause
from tests.model.records import Log, Record

Message = Literal["queued", "delivered", "gone"]
Closing = Literal["", "failed", "handoff", "expired", "poison", "stopped"]


class Budget(NamedTuple):
    """How many faults of a kind may still happen. The exploration is exhaustive up to these."""

    crashes: int = 0
    """Workers killed."""
    redeliveries: int = 0
    """Deliveries while somebody still works on an earlier one: after a NAK, or when its holder was cut off."""
    losses: int = 0
    """Publishes, PubAcks, acks or offers that are lost, and publishes that are sent twice although none was."""
    offers: int = 0
    """Deliveries that two workers take: a second scheduler, or an answer that came too late."""
    handoffs: int = 0
    """Planned restarts of a worker."""
    expiries: int = 0
    """Times a worker finds that the request is too late."""

    def spend(self, kind: str) -> Budget:
        """What is left after one of `kind`."""
        return self._replace(**{kind: getattr(self, kind) - 1})


class Copy(NamedTuple):
    """A publish on its way; sent twice, it is there twice. Stored only while the last ctl record is `expect`."""

    expect: int
    record: Record


class Offer(NamedTuple):
    """Delivery number `attempt`, on its way from a scheduler to a worker, and what the scheduler read of the log."""

    attempt: int
    ctl_seq: int
    cause: Cause


class Worker(NamedTuple):
    """An attempt, or an idle worker. All its numbers are as in `workers.attempt`."""

    attempt: int = 0
    """The newest delivery it has taken; 0: idle."""
    is_held: bool = False
    """Whether a lease or a NAK may still be based on that delivery."""
    cause: Cause = "first"
    nonce: int = 0
    lease: int = 0
    """Sequence of its lease; 0: not stored yet, as far as it knows."""
    logged: int = 0
    """Tokens that it knows to be in the log."""
    tokens: tuple[int, ...] | None = None
    """All tokens: the log's and those made since. None: the engine has not been started."""
    publish: Copy | None = None
    """The one publish in flight."""
    is_parked: bool = False
    """The publish was refused: the last ctl record is to be read."""
    closing: Closing = ""
    """How the attempt ends, if not by its last token."""


IDLE = Worker()


class State(NamedTuple):
    """`delivery` counts deliveries of the message. `canceller` is a Copy while it waits for the answer to its END.
    `dead`: nonces of workers that the scheduler takes for dead."""

    log: Log
    message: Message
    delivery: int
    offers: tuple[Offer, ...]
    workers: tuple[Worker, ...]
    network: tuple[Copy, ...]
    canceller: Literal["waiting", "ended", "over"] | Copy
    dead: tuple[int, ...]
    budget: Budget

    def with_worker(self, index: int, worker: Worker) -> State:
        """With another worker in one place."""
        workers = self.workers
        return self._replace(workers=(*workers[:index], worker, *workers[index + 1 :]))
