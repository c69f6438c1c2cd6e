"""The workers: how much more each will take, what it runs, and whether it lives.

Everything is read from pulls, answers and probes, and is only as good as the newest of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from scheduler.holding import Name
from schemas.dispatch import ModelCard, ModelState, Pull, Running
from schemas.ids import ModelKey, RequestId, TenantKey, WorkerId

WORKERS_MAX = 4096
"""More are not listened to. Their pulls alone would be 8,000 messages/s."""

PROBE_INTERVAL_S = 0.2
"""Between two probes of a suspect: two refusals this far apart are not one reconnect of a fraction of a second."""

REFUSALS_MAX = 2

EVIDENCE_S = 2.0
"""Nothing is held against a worker before we have been connected and running for this long: after a broker restart
workers were seen coming back 0.3-2 s later than their observer."""

_ACCEPTED_PER_SLOT_MAX = 4
"""Accepted requests remembered between two full pulls. A full pull comes every half second and clears them."""


@dataclass(slots=True)
class Worker:
    """A live worker as its newest pull shows it.

    `offered`: Work seq -> requests in it, for work the pull does not know of yet. `listed` and `accepted`: ack subjects
    of what it runs, by its last full pull and by its answers since then. `suspect`: a request with a strike that was
    offered as Work `suspect_seq` and has no new token yet. `is_kept`: until `kept_until` it gets nothing but suspects.
    """

    pull: Pull
    heard_at: float
    seq: int
    full_seq: int = 0
    offered: dict[int, int] = field(default_factory=dict)
    listed: dict[Name, str] = field(default_factory=dict)
    accepted: dict[Name, tuple[int, str]] = field(default_factory=dict)
    probed_at: float = -inf
    refusals: int = 0
    suspect: Name | None = None
    suspect_seq: int = 0
    is_kept: bool = False
    kept_until: float = -inf

    @property
    def credit(self) -> int:
        """Requests it will take beyond those it has been offered; none while it is kept for a suspect."""
        return 0 if self.is_kept else self.room

    @property
    def is_empty(self) -> bool:
        """Whether it runs nothing."""
        return 0 < self.room == self.pull.slots

    @property
    def room(self) -> int:
        """Free slots beyond what it has been offered."""
        if self.pull.leaving or self.full_seq > self.pull.work_seq:
            return 0
        return max(0, self.pull.free - sum(self.offered.values()))

    def runs(self, name: Name) -> bool:
        """Whether it says that it runs this request."""
        return name in self.listed or name in self.accepted

    def acks(self) -> dict[Name, str]:
        """Every request it runs, with the ack subject of its delivery."""
        return self.listed | {name: ack for name, (_, ack) in self.accepted.items()}


class Lost(NamedTuple):
    """A worker that is gone, why, and what it ran."""

    id: WorkerId
    worker: Worker
    reason: str


class Fleet:
    """All workers that are not known to be dead."""

    def __init__(self, *, suspect_s: float, silent_s: float) -> None:
        self._suspect_s = suspect_s
        self._silent_s = silent_s
        self._workers: dict[WorkerId, Worker] = {}
        self._models: dict[ModelKey, dict[WorkerId, Worker]] = {}
        self._watching_since = inf

    def watch_from(self, now: float) -> None:
        """Evidence starts anew: we have just connected, or have not been running ourselves."""
        self._watching_since = now
        for worker in self._workers.values():
            worker.refusals = 0

    def has_evidence(self, now: float) -> bool:
        """Whether we have been watching for long enough to call a worker dead."""
        return now - self._watching_since >= EVIDENCE_S

    def is_dead(self, worker: WorkerId, now: float) -> bool:
        """Whether a worker that once was there is not any more."""
        return worker not in self._workers and self.has_evidence(now)

    def pulled(self, pull: Pull, now: float) -> Lost | None:
        """Takes in a pull. A worker whose steps went back is a new process under an old name: the old one is Lost."""
        worker_id = WorkerId(pull.worker)
        worker = self._workers.get(worker_id)
        lost = None
        if worker is not None and (pull.steps < worker.pull.steps or pull.model.key != worker.pull.model.key):
            lost = self._remove(worker_id, "restarted")
            worker = None
        if worker is None:
            if len(self._workers) == WORKERS_MAX:
                return lost
            worker = Worker(pull, now, pull.work_seq)
            self._workers[worker_id] = worker
            self._models.setdefault(ModelKey(pull.model.key), {})[worker_id] = worker
        worker.pull = pull
        worker.heard_at = now
        worker.refusals = 0
        worker.seq = max(worker.seq, pull.work_seq)
        for seq in [seq for seq in worker.offered if seq <= pull.work_seq]:
            del worker.offered[seq]
        if pull.running is not None:
            _reconcile(worker, pull.running, pull.work_seq)
        if worker.suspect is not None and _has_begun(worker, pull):
            worker.suspect = None
            worker.is_kept = False
        return lost

    def get(self, worker: WorkerId) -> Worker | None:
        """A worker that is not known to be dead."""
        return self._workers.get(worker)

    def of(self, model: ModelKey) -> dict[WorkerId, Worker]:
        """The workers of a model."""
        return self._models.get(model, {})

    def credit(self, worker: WorkerId) -> int:
        """Requests a worker will take now."""
        return self._workers[worker].credit

    def free(self, model: ModelKey) -> int:
        """Requests the workers of `model` will take now."""
        return sum(worker.credit for worker in self.of(model).values())

    def by_credit(self, model: ModelKey) -> list[WorkerId]:
        """The workers of `model` that take something, the least loaded first."""
        order = sorted((-worker.credit, worker_id) for worker_id, worker in self.of(model).items())
        return [worker_id for credit, worker_id in order if credit]

    def by_room(self, model: ModelKey) -> list[WorkerId]:
        """The workers of `model` that may take a suspect, the least loaded first."""
        order = sorted(
            (-worker.room, worker_id)
            for worker_id, worker in self.of(model).items()
            if worker.room and worker.suspect is None
        )
        return [worker_id for _, worker_id in order]

    def keep(self, worker_id: WorkerId, until: float) -> None:
        """The worker gets nothing but suspects."""
        worker = self._workers[worker_id]
        worker.is_kept = True
        worker.kept_until = until

    def give_free(self, worker_id: WorkerId) -> None:
        """The worker is kept for nobody."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.suspect is None:
            worker.is_kept = False

    def expect_suspect(self, worker_id: WorkerId, suspect: Name) -> None:
        """The next offer to the worker is `suspect`: it gets no other one before the first new token of this one."""
        worker = self._workers[worker_id]
        assert worker.suspect is None, "two suspects do not meet"
        worker.suspect = suspect
        worker.suspect_seq = worker.seq + 1

    def runner_of(self, model: ModelKey, name: Name) -> WorkerId | None:
        """The worker of `model` that says it runs this request and means to go on with it."""
        for worker_id, worker in self.of(model).items():
            if worker.runs(name) and not worker.pull.leaving:
                return worker_id
        return None

    def runs_anywhere(self, name: Name) -> bool:
        """Whether any worker says that it runs this request."""
        return any(worker.runs(name) for worker in self._workers.values())

    def offer(self, worker_id: WorkerId, requests: int) -> int:
        """Notes an offer that takes up to `requests` slots (0: only what it runs already); returns its Work seq."""
        worker = self._workers[worker_id]
        assert requests <= worker.room, "an offer never goes beyond the credit"
        worker.seq += 1
        worker.offered[worker.seq] = requests
        return worker.seq

    def accepted(self, worker_id: WorkerId, seq: int, name: Name, ack: str) -> None:
        """The worker runs this request now, by the delivery `ack`."""
        worker = self._workers[worker_id]
        worker.listed.pop(name, None)
        worker.accepted[name] = (seq, ack)
        if len(worker.accepted) > _ACCEPTED_PER_SLOT_MAX * max(1, worker.pull.slots):
            del worker.accepted[next(iter(worker.accepted))]

    def full(self, worker_id: WorkerId, seq: int) -> None:
        """The worker had no room for the offer `seq`: nothing more until a pull that knows of it."""
        worker = self._workers[worker_id]
        worker.full_seq = max(worker.full_seq, seq)
        _acquit(worker, seq)

    def failed(self, worker_id: WorkerId, seq: int) -> None:
        """The offer `seq` got no answer. If it arrived after all, the next pull's free slots tell."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.offered.pop(seq, None)
            _acquit(worker, seq)

    def probe_answered(self, worker_id: WorkerId, *, alive: bool, now: float) -> Lost | None:
        """A probe came back. Nobody there twice in a row: the worker's connection is gone."""
        worker = self._workers.get(worker_id)
        if worker is None or not self.has_evidence(now):
            return None
        worker.refusals = 0 if alive else worker.refusals + 1
        return self._remove(worker_id, "disconnected") if worker.refusals >= REFUSALS_MAX else None

    def sweep(self, now: float) -> tuple[list[WorkerId], list[Lost]]:
        """What is due by the clock: (workers to probe, workers that have been silent for too long)."""
        for worker in self._workers.values():
            worker.is_kept = worker.is_kept and now < worker.kept_until
        if not self.has_evidence(now):
            return [], []
        probes: list[WorkerId] = []
        silent: list[WorkerId] = []
        for worker_id, worker in self._workers.items():
            silence_s = now - max(worker.heard_at, self._watching_since)
            if silence_s >= self._silent_s:
                silent.append(worker_id)
            elif silence_s >= self._suspect_s and now - worker.probed_at >= PROBE_INTERVAL_S:
                worker.probed_at = now
                probes.append(worker_id)
        return probes, [self._remove(worker_id, "silent") for worker_id in silent]

    def state(self, card: ModelCard, *, seen_age_s: float) -> ModelState:
        """A model as the leader announces it; workers that go away count no more."""
        staying = [worker for worker in self.of(ModelKey(card.key)).values() if not worker.pull.leaving]
        return ModelState(
            card=card,
            workers=len(staying),
            slots=sum(worker.pull.slots for worker in staying),
            free=sum(worker.credit for worker in staying),
            seen_age_s=round(seen_age_s, 3),
            idle=sum(worker.is_empty for worker in staying),
        )

    def check(self) -> None:
        """Asserts its invariants."""
        assert len(self._workers) <= WORKERS_MAX
        assert sum(len(workers) for workers in self._models.values()) == len(self._workers)
        for worker_id, worker in self._workers.items():
            assert self._models[ModelKey(worker.pull.model.key)][worker_id] is worker
            assert worker.credit >= 0
            assert all(worker.pull.work_seq < seq <= worker.seq for seq in worker.offered)
            assert not worker.listed.keys() & worker.accepted.keys()

    def _remove(self, worker_id: WorkerId, reason: str) -> Lost:
        worker = self._workers.pop(worker_id)
        model = ModelKey(worker.pull.model.key)
        del self._models[model][worker_id]
        if not self._models[model]:
            del self._models[model]
        return Lost(worker_id, worker, reason)


def _has_begun(worker: Worker, pull: Pull) -> bool:
    """Whether this pull says that the suspect has made a new token, or is not there any more."""
    if pull.work_seq < worker.suspect_seq:
        return False
    if pull.running is None:
        return pull.free == pull.slots
    return all(one.started for one in pull.running if name_of(one) == worker.suspect)


def _acquit(worker: Worker, seq: int) -> None:
    """The offer of the suspect came to nothing."""
    if worker.suspect is not None and seq == worker.suspect_seq:
        worker.suspect = None
        worker.is_kept = False


def _reconcile(worker: Worker, running: list[Running], work_seq: int) -> None:
    """A full pull knows everything up to `work_seq`: what it does not list is gone, what came later stays."""
    worker.listed = {name_of(one): one.ack for one in running}
    worker.accepted = {
        name: (seq, ack)
        for name, (seq, ack) in worker.accepted.items()
        if seq > work_seq and name not in worker.listed
    }


def name_of(one: Running) -> Name:
    """The request's name: a rid alone may be another tenant's, too."""
    return TenantKey(one.tenant), RequestId(one.rid)
