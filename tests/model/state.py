"""One state of the world around one request: its log, its message, who works on it, and what is on its way."""

from __future__ import annotations

from typing import Literal, NamedTuple

from schemas.output import Cause
from tests.model.records import Log, Record

Message = Literal["queued", "delivered", "gone", "lost"]
"""Lost: it went while there was no END."""

Closing = Literal["", "failed", "handoff", "expired", "poison", "dead", "stopped"]
"""How an attempt ends, if not by its last token. Poison becomes dead when there is a dead letter of it."""


class Budget(NamedTuple):
    """How many faults of a kind may still happen. The exploration is exhaustive up to these."""

    crashes: int = 0
    """Workers killed."""
    redeliveries: int = 0
    """Deliveries while somebody still has an earlier one: after a NAK, or when its holder was cut off or paused."""
    losses: int = 0
    """Publishes, PubAcks, acks or offers that are lost, and publishes that are sent twice although none was."""
    offers: int = 0
    """Deliveries that two workers take: a second scheduler, or an answer that came too late."""
    handoffs: int = 0
    """Planned restarts of a worker."""
    expiries: int = 0
    """Times a worker or a scheduler finds that the request is too late."""
    wipes: int = 0
    """Losses of the whole log."""
    removals: int = 0
    """Times records of a finished log are older than the stream keeps them."""
    retries: int = 0
    """Times the publisher sends the request again after its message has gone."""

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
    """All tokens: the log's and its own. None: the engine has not been started."""
    publish: Copy | None = None
    """The one publish in flight."""
    closing: Closing = ""


IDLE = Worker()

CloserKind = Literal["canceller", "queue", "leader"]


class Closer(NamedTuple):
    """Somebody who ends the request and does not run it: a canceller, an edge whose client waited too long for a
    worker, a scheduler that finds it too late. `publish` is its END in flight."""

    kind: CloserKind
    publish: Copy | None = None


class State(NamedTuple):
    """`delivery` counts deliveries of the message. `dead`: nonces of workers that the scheduler takes for dead.
    `letters`: copies in DEAD."""

    log: Log
    message: Message
    delivery: int
    offers: tuple[Offer, ...]
    workers: tuple[Worker, ...]
    network: tuple[Copy, ...]
    closers: tuple[Closer, ...]
    dead: tuple[int, ...]
    letters: int
    budget: Budget

    def with_worker(self, index: int, worker: Worker) -> State:
        """With another worker in one place."""
        workers = self.workers
        return self._replace(workers=(*workers[:index], worker, *workers[index + 1 :]))

    def spend(self, kind: str) -> State:
        """With one fault of `kind` less to come."""
        return self._replace(budget=self.budget.spend(kind))

    def settled(self) -> State:
        """The message is acknowledged or deleted. That of a request without END is lost by it."""
        is_lost = self.log.end is None and self.message != "gone"
        return self._replace(message="lost" if is_lost else "gone")
