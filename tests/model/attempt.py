"""The workers of the model: the decisions of `workers.attempt`, one transition each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from schemas.output import Cause, Status
from tests.model.explore import Step
from tests.model.records import (
    End,
    Failed,
    Handoff,
    Lease,
    Log,
    Record,
    Tok,
    ids_of,
    last_ctl,
    strikes_of,
    token_after,
)
from tests.model.scope import Mutation, Scope
from tests.model.state import IDLE, Closing, Copy, Offer, State, Worker

Steps: TypeAlias = Iterator[Step[State]]

_DECISIONS: tuple[tuple[Literal["handoffs", "expiries"], Closing], ...] = (
    ("handoffs", "handoff"),
    ("expiries", "expired"),
)


class Attempts:
    """What the workers of a state may do next. The index names a worker."""

    def __init__(self, scope: Scope, mutation: Mutation) -> None:
        self._scope = scope
        self._mutation = mutation

    def accept(self, state: State, index: int, offer: Offer) -> Steps:
        """An idle worker takes an offer."""
        name = f"worker {index}"
        worker = Worker(offer.attempt, True, offer.cause)
        if offer.ctl_seq == 0:
            worker = worker._replace(tokens=())
        yield Step(f"{name} accepts", self._lease(state, index, worker, offer.ctl_seq))
        if state.budget.expiries:
            spent = state._replace(budget=state.budget.spend("expiries"))
            yield Step(f"{name}: too late", self._end_at_once(spent, index, worker, offer, "expired"), True)

    def work(self, state: State, index: int) -> Steps:
        """A busy worker does something by itself."""
        worker = state.workers[index]
        if state.budget.crashes:
            spent = state._replace(budget=state.budget.spend("crashes"))
            yield Step(f"worker {index} is killed", _killed(spent, index), True)
        if worker.closing == "stopped":
            return
        for offer in dict.fromkeys(state.offers):
            yield Step(f"worker {index}: mine", _take_over(state, index, offer))
        yield from self._run_engine(state, index)
        publish = worker.publish
        if worker.is_parked:
            yield from self._read_ctl(state, index)
        elif publish is None:
            yield from self._advance(state, index)
        else:
            yield from self._wait(state, index, publish)

    def stored(self, state: State, index: int, seq: int) -> Steps:
        """The worker learns that its publish is stored, at `seq`."""
        worker, name = state.workers[index], f"worker {index}"
        assert worker.publish is not None
        match worker.publish.record:
            case Lease():
                yield Step(f"{name} has the lease {seq}", self._leased(state, index, seq))
            case Tok(ids=ids):
                done = worker._replace(logged=worker.logged + len(ids), publish=None, is_parked=False)
                yield Step(f"{name}: {done.logged} logged", state.with_worker(index, done))
            case End():
                yield from ack(state.with_worker(index, IDLE), f"{name}: END is stored")
            case Failed() | Handoff():
                idle = state.with_worker(index, IDLE)
                if worker.is_held and state.message == "delivered":
                    idle = idle._replace(message="queued")
                yield Step(f"{name} gives back", idle)

    def is_in_vain(self, log: Log, worker: Worker) -> bool:
        """Whether an attempt runs although the log it began with has all the strikes it may have."""
        is_running = worker.lease > 1 and not worker.closing
        return is_running and strikes_of(log[: worker.lease]) >= self._scope.strikes_max

    def _run_engine(self, state: State, index: int) -> Steps:
        worker, name = state.workers[index], f"worker {index}"
        if worker.closing or (worker.publish is not None and isinstance(worker.publish.record, End)):
            return
        for kind, closing in _DECISIONS:
            if getattr(state.budget, kind):
                closed = state.with_worker(index, worker._replace(closing=closing))
                yield Step(f"{name}: {closing}", closed._replace(budget=state.budget.spend(kind)), True)
        tokens = worker.tokens
        if tokens is None:
            return
        if self._scope.is_poison and worker.attempt <= self._scope.harms_max:
            yield Step(
                f"{name}: the engine raises", state.with_worker(index, worker._replace(closing="failed"))
            )
            yield Step(f"{name}: the engine kills it", _killed(state, index))
        elif len(tokens) < self._scope.tokens:
            more = worker._replace(tokens=(*tokens, token_after(tokens, worker.nonce)))
            yield Step(f"{name} makes token {len(tokens)}", state.with_worker(index, more))

    def _advance(self, state: State, index: int) -> Steps:
        """The lease is there and no publish in flight: what is stored next."""
        worker, name = state.workers[index], f"worker {index}"
        assert worker.tokens is not None
        nonce, n, waiting = worker.nonce, len(worker.tokens), worker.tokens[worker.logged :]
        closing = worker.closing
        record: Record
        if waiting and closing in ("", "handoff"):
            record = Tok(nonce, worker.logged, waiting)
            yield Step(f"{name} appends {record.off}..{n - 1}", self._publish(state, index, record))
        if closing == "failed":
            yield Step(f"{name}: failed", self._publish(state, index, Failed(nonce)))
        elif closing == "handoff" and not waiting:
            yield Step(f"{name}: hand-off", self._publish(state, index, Handoff(nonce, n)))
        elif closing in ("expired", "poison"):
            status: Status = "expired" if closing == "expired" else "error"
            yield Step(f"{name}: END({status})", self._publish(state, index, End(nonce, n, waiting, status)))
        elif not closing and n == self._scope.tokens:
            yield Step(f"{name}: END(ok)", self._publish(state, index, End(nonce, n, waiting, "ok")))

    def _wait(self, state: State, index: int, publish: Copy) -> Steps:
        """A publish is not answered: the same bytes again."""
        worker, name = state.workers[index], f"worker {index}"
        yield from self._wait_badly(state, index, publish)
        if isinstance(publish.record, Lease) and not worker.is_held:
            yield Step(f"{name}: its delivery ran out", self._stopped(state, index))
            return
        again = state._replace(network=(*state.network, publish))
        if publish not in state.network:
            yield Step(f"{name} sends again: {publish.record.kind}", again)
        elif state.budget.losses:
            spent = again._replace(budget=state.budget.spend("losses"))
            yield Step(f"{name} sends twice: {publish.record.kind}", spent, True)

    def _wait_badly(self, state: State, index: int, publish: Copy) -> Steps:
        """What a worker that breaks a rule does while it should wait."""
        worker, name, mutation = state.workers[index], f"worker {index}", self._mutation
        record, tokens = publish.record, worker.tokens or ()
        if mutation == "ack before the PubAck of END" and isinstance(record, End):
            yield Step(f"{name}: ack", state._replace(message="gone"))
        if not isinstance(record, Tok):
            return
        waiting = tokens[record.off + len(record.ids) :]
        sent = worker._replace(logged=len(tokens) - len(waiting))
        if mutation == "two appends in flight" and waiting:
            more = Tok(worker.nonce, sent.logged, waiting)
            yield Step(f"{name} appends more", self._publish(state.with_worker(index, sent), index, more))
        if mutation == "other bytes on a retry" and waiting and publish not in state.network:
            more = record._replace(ids=(*record.ids, *waiting))
            yield Step(f"{name} sends more again", self._publish(state, index, more))
        if mutation == "END before the last append is acknowledged" and len(tokens) == self._scope.tokens:
            end = End(worker.nonce, len(tokens), waiting, "ok")
            yield Step(f"{name}: END", self._publish(state.with_worker(index, sent), index, end))
        if mutation == "hand-off before the last append is acknowledged" and worker.closing == "handoff":
            handoff = Handoff(worker.nonce, sent.logged)
            yield Step(f"{name}: hand-off", self._publish(state.with_worker(index, sent), index, handoff))

    def _read_ctl(self, state: State, index: int) -> Steps:
        """The table of the design: the publish was refused, and the last ctl record says what follows."""
        worker, name = state.workers[index], f"worker {index}"
        assert worker.publish is not None
        seq = last_ctl(state.log)
        record = state.log[seq - 1] if seq else None
        if isinstance(record, End):
            yield from ack(state.with_worker(index, IDLE), f"{name} finds END")
            return
        if record is not None and record.nonce == worker.nonce:
            if record.kind == worker.publish.record.kind:
                yield from self.stored(state, index, seq)
            else:
                yield Step(
                    f"{name} finds its lease", state.with_worker(index, worker._replace(is_parked=False))
                )
            return
        is_unleased = worker.lease == 0 and isinstance(worker.publish.record, End)
        is_newer = isinstance(record, Lease) and record.attempt >= worker.attempt
        if is_unleased or is_newer or not worker.is_held:
            yield Step(f"{name} is fenced and stops", self._stopped(state, index))
        else:
            if self._mutation != "a lease over another record keeps the cause of its delivery":
                worker = worker._replace(cause=_cause_after(record))
            yield Step(f"{name} leases again ({worker.cause})", self._lease(state, index, worker, seq))

    def _lease(self, state: State, index: int, worker: Worker, expect: int) -> State:
        if self._mutation == "the log is read before the lease":
            ids = ids_of(state.log)
            worker = worker._replace(tokens=ids, logged=len(ids))
        nonce = _new_nonce(state)
        state = state.with_worker(index, worker._replace(nonce=nonce, lease=0))
        return _send(state, index, Copy(expect, Lease(nonce, worker.attempt, worker.cause)))

    def _leased(self, state: State, index: int, seq: int) -> State:
        """The lease is stored at `seq`: the log up to it is what is continued, with own tokens that extend it."""
        worker, log = state.workers[index], state.log[:seq]
        worker = worker._replace(lease=seq, publish=None, is_parked=False)
        if self._mutation == "the log is read before the lease":
            return state.with_worker(index, worker)
        ids, own = ids_of(log), worker.tokens
        is_kept = own is not None and own[: len(ids)] == ids
        if self._mutation == "a re-lease keeps own tokens although the log differs":
            is_kept = own is not None and len(own) >= len(ids)
        worker = worker._replace(logged=len(ids), tokens=own if is_kept else ids)
        if seq > 1 and self._strikes(log) >= self._scope.strikes_max:
            worker = worker._replace(tokens=ids, closing="poison")
        return state.with_worker(index, worker)

    def _strikes(self, log: Log) -> int:
        if self._mutation == "strikes are not folded":
            return 0
        if self._mutation == "every lease without a token is a strike":
            trailing = log[
                max((seq for seq, record in enumerate(log, 1) if isinstance(record, Tok)), default=1) :
            ]
            return sum(isinstance(record, Lease) for record in trailing)
        return strikes_of(log)

    def _stopped(self, state: State, index: int) -> State:
        """No sign, NAK or ack any more: somebody else has the request."""
        if self._mutation == "ack when fenced":
            state = state._replace(message="gone")
        if self._mutation == "signs of progress after being fenced":
            return state.with_worker(index, state.workers[index]._replace(closing="stopped", publish=None))
        return state.with_worker(index, IDLE)

    def _end_at_once(self, state: State, index: int, worker: Worker, offer: Offer, status: Status) -> State:
        """An END without a lease."""
        nonce = _new_nonce(state)
        state = state.with_worker(index, worker._replace(nonce=nonce))
        return _send(state, index, Copy(offer.ctl_seq, End(nonce, None, (), status)))

    def _publish(self, state: State, index: int, record: Record) -> State:
        return _send(state, index, Copy(state.workers[index].lease, record))


def ack(state: State, label: str) -> Steps:
    """The message is acknowledged, unless that is lost."""
    yield Step(f"{label}: ack", state._replace(message="gone"))
    if state.budget.losses:
        yield Step(f"{label}: ack, lost", state._replace(budget=state.budget.spend("losses")), True)


def _send(state: State, index: int, copy: Copy) -> State:
    worker = state.workers[index]._replace(publish=copy, is_parked=False)
    return state.with_worker(index, worker)._replace(network=(*state.network, copy))


def _take_over(state: State, index: int, offer: Offer) -> State:
    """The request is offered to the worker that runs it: from now on it is held by the newer delivery."""
    worker = state.workers[index]
    worker = worker._replace(attempt=offer.attempt, is_held=True, cause=offer.cause)
    offers = tuple(other for other in state.offers if other is not offer)
    return state.with_worker(index, worker)._replace(offers=offers)


def _killed(state: State, index: int) -> State:
    dead = (*state.dead, state.workers[index].nonce)
    return state.with_worker(index, IDLE)._replace(dead=dead)


def _cause_after(record: Record | None) -> Cause:
    """Why a lease follows `record`, which is not what the scheduler saw: a death it may have seen there has its strike
    already."""
    match record:
        case Failed():
            return "engine_error"
        case Handoff():
            return "handoff"
        case _:
            return "redelivered"


def _new_nonce(state: State) -> int:
    """One that nobody uses. The smallest, so that histories that differ in nothing else become one state."""
    used = {record.nonce for record in state.log}
    used.update(copy.record.nonce for copy in state.network)
    used.update(worker.nonce for worker in state.workers)
    return next(nonce for nonce in range(1, len(used) + 2) if nonce not in used)
