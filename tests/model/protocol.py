"""The life of one request as a transition system: design section 4, with the decisions of the product's workers.

Broker: a ctl record is stored by compare-and-set on the last one, a tok only while its lease is the last one. Copies of
publishes may be overtaken, lost or doubled. The answer to a publish comes with its processing, or is lost. Schedulers
are what they may do: look at the log and offer a delivery to any worker, also to the one that runs the request already.
"""

from __future__ import annotations

from schemas.output import Cause
from tests.model.attempt import Attempts, Steps, ack
from tests.model.explore import Step
from tests.model.records import (
    End,
    Failed,
    Handoff,
    Lease,
    Record,
    Tok,
    end_of,
    ids_of,
    last_ctl,
    violation_of_last,
)
from tests.model.scope import Mutation, Scope
from tests.model.state import IDLE, Copy, Offer, State, Worker


class Protocol:
    """The request under `scope`, with one rule broken by `mutation`."""

    def __init__(self, scope: Scope, mutation: Mutation = "") -> None:
        self._scope = scope
        self._mutation = mutation
        self._attempts = Attempts(scope, mutation)

    @property
    def initial(self) -> State:
        """A request that was just accepted."""
        return State(
            log=(),
            message="queued",
            delivery=0,
            offers=(),
            workers=(IDLE,) * self._scope.workers,
            network=(),
            canceller="waiting" if self._scope.is_cancelled else "over",
            dead=(),
            budget=self._scope.budget,
        )

    def steps(self, state: State) -> Steps:
        """All that can happen next."""
        for label, after, is_fault in self._all_steps(state):
            yield Step(label, self._arrange(after), is_fault)

    def violation(self, state: State) -> str | None:
        """Which of the design's invariants does not hold. Of the log only the last record is looked at: the others were
        when they were stored."""
        log, end = state.log, end_of(state.log)
        if log:
            problem = violation_of_last(log)
            if problem is not None:
                return problem
        if end is not None and end.status == "error" and not self._scope.is_poison:
            return "I10: a healthy request ended as poison"
        if end is None and state.message == "gone":
            return "I1/I2: the message is gone and there is no END"
        if self._scope.is_poison and any(self._attempts.is_in_vain(log, worker) for worker in state.workers):
            return "I10: an attempt runs although the log has all the strikes it may have"
        return None

    def is_done(self, state: State) -> bool:
        """END is stored, the message is gone and nobody is at work."""
        is_idle = not state.offers and not any(worker.attempt for worker in state.workers)
        return state.message == "gone" and end_of(state.log) is not None and is_idle

    def _all_steps(self, state: State) -> Steps:
        yield from self._deliver(state)
        is_idle_seen = False
        for index, worker in enumerate(state.workers):
            if worker.attempt:
                yield from self._attempts.work(state, index)
            elif not is_idle_seen:
                is_idle_seen = True
                yield from self._accept(state, index)
        for copy in dict.fromkeys(state.network):
            yield from self._process(state, copy)
        if isinstance(state.canceller, Copy) or state.canceller != "over":
            yield from self._cancel(state)

    # REQUESTS and the schedulers.

    def _deliver(self, state: State) -> Steps:
        if state.message == "delivered":
            yield from self._deliver_again(state)
        if state.message != "queued":
            return
        attempt, seq = state.delivery + 1, last_ctl(state.log)
        label = f"delivery {attempt}"
        delivered = state._replace(message="delivered")
        if attempt > 1 and end_of(state.log) is not None and self._mutation != "a lease over END":
            if self._mutation == "END found at a delivery is not acknowledged":
                yield Step(f"{label}: END is there", delivered)
            else:
                yield from ack(delivered, f"{label}: END is there")
            return
        offer = Offer(attempt, seq, self._cause(state, seq)) if attempt > 1 else Offer(1, 0, "first")
        offered = delivered._replace(delivery=attempt, offers=(*state.offers, offer))
        yield Step(f"{label}: offered after ctl {offer.ctl_seq}", offered)

    def _deliver_again(self, state: State) -> Steps:
        budget = state.budget
        busy = [worker for worker in state.workers if worker.attempt]
        again = state._replace(message="queued")
        if not busy and not state.offers:
            yield Step("nobody holds the delivery: it runs out", again)
        elif busy and budget.redeliveries:
            spent = again._replace(budget=budget.spend("redeliveries"))
            yield Step("NAK, though a worker holds the delivery", spent, True)
            cut_off = tuple(worker._replace(is_held=False) for worker in state.workers)
            dead = (*state.dead, *(worker.nonce for worker in busy))
            yield Step("cut off: the delivery runs out", spent._replace(workers=cut_off, dead=dead), True)

    def _cause(self, state: State, seq: int) -> Cause:
        match state.log[seq - 1] if seq else None:
            case Failed():
                return "engine_error"
            case Handoff():
                return "handoff"
            case Lease(nonce=nonce) if nonce in state.dead:
                return "worker_dead"
            case _:
                return "redelivered"

    def _accept(self, state: State, index: int) -> Steps:
        budget = state.budget
        for offer in dict.fromkeys(state.offers):
            rest = tuple(other for other in state.offers if other is not offer)
            for label, after, is_fault in self._attempts.accept(state, index, offer):
                yield Step(label, after._replace(offers=rest), is_fault)
                if budget.offers:
                    twice = after._replace(budget=after.budget.spend("offers"))
                    yield Step(f"{label}, and it is offered again", twice, True)
            if budget.losses:
                yield Step(
                    "an offer is lost", state._replace(offers=rest, budget=budget.spend("losses")), True
                )

    # OUTPUT.

    def _process(self, state: State, copy: Copy) -> Steps:
        network = list(state.network)
        network.remove(copy)
        before = state._replace(network=tuple(network))
        is_stored = self._is_stored(state, copy)
        after = before._replace(log=(*state.log, copy.record)) if is_stored else before
        what = f"{copy.record.kind} after {copy.expect} {'stored' if is_stored else 'refused'}"
        waiting = [
            index
            for index, worker in enumerate(state.workers)
            if worker.publish == copy and not worker.is_parked
        ]
        is_waited_for = bool(waiting) or state.canceller == copy
        if state.budget.losses:
            spent = state.budget.spend("losses")
            yield Step(f"{copy.record.kind} after {copy.expect} lost", before._replace(budget=spent), True)
            if is_waited_for:
                yield Step(f"{what}, the answer lost", after._replace(budget=spent), True)
        if not is_waited_for:
            yield Step(what, after)
        elif not waiting:
            yield Step(what, after._replace(canceller="ended" if is_stored else "waiting"))
        elif is_stored:
            for label, learnt, is_fault in self._attempts.stored(after, waiting[0], len(after.log)):
                yield Step(f"{what}: {label}", learnt, is_fault)
        else:
            parked = state.workers[waiting[0]]._replace(is_parked=True)
            yield Step(what, after.with_worker(waiting[0], parked))

    def _is_stored(self, state: State, copy: Copy) -> bool:
        return copy.expect == last_ctl(state.log) or self._is_unchecked(copy.record)

    def _is_unchecked(self, record: Record) -> bool:
        match record:
            case Lease():
                return self._mutation == "a lease is stored without CAS"
            case Tok():
                return self._mutation == "a tok is stored without a fence"
            case End():
                return self._mutation == "END is stored without CAS"
            case _:
                return False

    # A canceller: END by CAS on the last ctl record, then the message is settled.

    def _cancel(self, state: State) -> Steps:
        canceller = state.canceller
        yield Step("the canceller gives up", state._replace(canceller="over"))
        if canceller == "waiting":
            if self._mutation == "the message is settled before END on a cancel":
                yield Step("the message is settled", state._replace(message="gone"))
            if end_of(state.log) is not None:
                return
            carries_n = self._mutation == "the END of a canceller carries n"
            end = End(0, len(ids_of(state.log)) if carries_n else None, (), "cancelled")
            copy = Copy(last_ctl(state.log), end)
            sent = state._replace(canceller=copy, network=(*state.network, copy))
            yield Step(f"the canceller sends END after {copy.expect}", sent)
        elif canceller == "ended":
            yield Step("the message is settled", state._replace(canceller="over", message="gone"))
        elif isinstance(canceller, Copy) and canceller not in state.network:
            yield Step("the canceller sends END again", state._replace(network=(*state.network, canceller)))

    def _arrange(self, state: State) -> State:
        """One state for all that differ in nothing that matters: workers and copies have no order, and a copy that can
        only be refused and that nobody waits for does nothing."""
        workers, network, dead = state.workers, state.network, state.dead
        nonces = [worker.nonce for worker in workers]
        if nonces != sorted(nonces):
            workers = tuple(sorted(workers, key=_nonce_of))
        if network:
            network = self._alive(state)
        if dead:
            leases = {copy.record.nonce for copy in network}
            if state.log:
                leases.add(state.log[last_ctl(state.log) - 1].nonce)
            dead = tuple(sorted(leases.intersection(dead)))
        if workers is state.workers and network is state.network and dead is state.dead:
            return state
        return state._replace(workers=workers, network=network, dead=dead)

    def _alive(self, state: State) -> tuple[Copy, ...]:
        ctl = last_ctl(state.log)
        awaited = [state.canceller, *(worker.publish for worker in state.workers if not worker.is_parked)]
        network = [
            copy
            for copy in state.network
            if copy.expect == ctl or copy in awaited or self._is_unchecked(copy.record)
        ]
        return tuple(sorted(network, key=repr) if len(network) > 1 else network)


def _nonce_of(worker: Worker) -> int:
    return worker.nonce
