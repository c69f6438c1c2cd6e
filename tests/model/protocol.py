"""The life of one request as a transition system: design section 4, with the decisions of the product's workers.

Broker: a ctl record is stored by compare-and-set on the last one, a tok only while its lease is the last one. Copies of
publishes may be overtaken, lost or doubled. The answer to a publish comes with its processing, or is lost; a second one
changes nothing, because answers are numbered. Schedulers are what they may do: look at the log and offer a
delivery to any worker, also to the one that runs the request already, and to two at once.
"""

from __future__ import annotations

from schemas.output import Cause
from tests.model.attempt import Attempts, Steps, ack
from tests.model.closing import Closers
from tests.model.explore import Step
from tests.model.records import EMPTY, End, Failed, Handoff, Lease, Record, Tok
from tests.model.scope import Mutation, Scope
from tests.model.state import IDLE, Closer, Copy, Offer, State


class Protocol:
    """The request under `scope`, with one rule broken by `mutation`."""

    def __init__(self, scope: Scope, mutation: Mutation = "") -> None:
        self._scope = scope
        self._mutation = mutation
        self._attempts = Attempts(scope, mutation)
        self._closers = Closers(mutation)

    @property
    def initial(self) -> State:
        """A request that was just accepted."""
        return State(
            log=EMPTY,
            message="queued",
            delivery=0,
            offers=(),
            workers=(IDLE,) * self._scope.workers,
            network=(),
            closers=tuple(Closer(kind) for kind in self._scope.closers),
            dead=(),
            letters=0,
            budget=self._scope.budget,
        )

    def steps(self, state: State) -> Steps:
        """All that can happen next."""
        for label, after, is_fault in self._all_steps(state):
            yield Step(label, self._arrange(after), is_fault)

    def violation(self, state: State) -> str | None:
        """Which of the design's invariants does not hold. Of the log only the last record is looked at: the others were
        when they were stored."""
        log, scope = state.log, self._scope
        if log.violation is not None:
            return log.violation
        if state.message == "lost":
            return "I1/I2: the message is gone and there is no END"
        if log.has_hole and log.end is None:
            return "I4: a part of the output of a running request is lost"
        if log.end is not None and log.end.reason == "poison":
            if not scope.may_be_given_up:
                return "I10: a healthy request ended as poison"
            if not state.letters:
                return "I10: a request ended as poison and no copy of it was kept"
        if state.letters > 1:
            return "I10: two copies of a poisoned request"
        if scope.may_be_given_up and any(self._attempts.is_in_vain(state, one) for one in state.workers):
            return "I10: an attempt runs although the log forbids it"
        return None

    def is_done(self, state: State) -> bool:
        """The message is gone, which needs END, and nobody is at work."""
        return state.message == "gone" and not state.offers and not any(one.attempt for one in state.workers)

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
        if state.closers:
            yield from self._closers.work(state)
        yield from self._lose_or_keep(state)

    # REQUESTS and the schedulers.

    def _deliver(self, state: State) -> Steps:
        if state.message == "delivered":
            yield from self._deliver_again(state)
        if state.message != "queued":
            return
        attempt, seq = state.delivery + 1, state.log.last_ctl
        delivered = state._replace(message="delivered")
        if attempt > 1 and state.log.end is not None and self._mutation != "a lease over END":
            if self._mutation == "END found at a delivery is not acknowledged":
                yield Step("delivered: END is there", delivered)
            else:
                yield from ack(delivered, "delivered: END is there")
            return
        offer = Offer(attempt, seq, self._cause(state)) if attempt > 1 else Offer(1, 0, "first")
        yield Step("delivered", delivered._replace(delivery=attempt, offers=(*state.offers, offer)))

    def _deliver_again(self, state: State) -> Steps:
        busy = [worker for worker in state.workers if worker.attempt]
        is_closing = any(closer.kind == "leader" for closer in state.closers)
        again = state._replace(message="queued")
        if not busy and not state.offers and not is_closing:
            yield Step("nobody holds the delivery: it runs out", again)
        elif state.budget.redeliveries:
            again = again.spend("redeliveries")
            yield Step("NAK, or a paused holder: another delivery", again, True)
            if busy:
                cut_off = tuple(worker._replace(is_held=False) for worker in state.workers)
                dead = (*state.dead, *(worker.nonce for worker in busy))
                yield Step("cut off: another delivery", again._replace(workers=cut_off, dead=dead), True)

    def _cause(self, state: State) -> Cause:
        match state.log.ctl:
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
                taken = after.settled() if self._mutation == "a scheduler acks what a worker took" else after
                yield Step(label, taken._replace(offers=rest), is_fault)
                if budget.offers:
                    yield Step("two workers take it", after.spend("offers"), True)
            if budget.losses:
                yield Step("an offer is lost", state._replace(offers=rest).spend("losses"), True)
            if budget.expiries:
                yield Step("a scheduler finds it too late", self._closers.expire(state, offer), True)

    # OUTPUT.

    def _process(self, state: State, copy: Copy) -> Steps:
        network = list(state.network)
        network.remove(copy)
        before = state._replace(network=tuple(network))
        worker = next((index for index, one in enumerate(state.workers) if one.publish == copy), None)
        closer = next((one for one in state.closers if one.publish == copy), None)
        is_awaited = worker is not None or closer is not None
        if state.budget.losses:
            yield Step("a publish is lost", before.spend("losses"), True)
        is_stored = copy.expect == state.log.last_ctl or self._is_unchecked(copy.record)
        after = before
        if is_stored:
            after = before._replace(log=state.log.then(copy.record))
            if state.budget.losses and is_awaited:
                yield Step(f"{copy.record.kind} stored, the answer lost", after.spend("losses"), True)
        if worker is not None and is_stored:
            yield from self._attempts.stored(after, worker, after.log.last_seq)
        elif worker is not None:
            yield from self._attempts.refused(after, worker)
        elif closer is not None:
            yield from self._closers.answered(after, closer, is_stored=is_stored)
        else:
            yield Step(f"{copy.record.kind} {'stored' if is_stored else 'refused'}", after)

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

    def _lose_or_keep(self, state: State) -> Steps:
        """The log may be lost at any time, and it ages out when its request has long been over: then nothing of it is
        on its way, and nobody holds a delivery. Its publisher may send the request again before or after."""
        log, budget = state.log, state.budget
        if budget.wipes and log.visible:
            restarts = self._mutation == "sequences repeat after a loss"
            lost = log.without(len(log.visible), restarts=restarts)
            yield Step("the log is lost", state._replace(log=lost).spend("wipes"), True)
        if state.message == "gone" and budget.retries:
            yield Step("sent again", state._replace(message="queued", delivery=0).spend("retries"), True)
        is_over = state.message == "gone" and not state.network and not any(w.is_held for w in state.workers)
        if budget.removals and (is_over or self._mutation == "records of a running request age out"):
            for count in range(1, len(log.visible) + 1):
                aged = state._replace(log=log.without(count))
                yield Step("records age out", aged.spend("removals"), True)

    def _arrange(self, state: State) -> State:
        """One state for all that differ in nothing that matters: workers and copies have no order, a copy that can only
        be refused and that nobody waits for does nothing, and neither does who can only find that all is over."""
        workers, network, closers, dead = state.workers, state.network, state.closers, state.dead
        nonces = [worker.nonce for worker in workers]
        if nonces != sorted(nonces):
            workers = tuple(sorted(workers, key=lambda worker: worker.nonce))
        if closers and state.message == "gone" and not state.budget.retries:
            closers = tuple([closer for closer in closers if closer.publish is not None])
        if len(closers) > 1:
            closers = tuple(sorted(closers, key=lambda closer: closer.kind))
        if network:
            network = self._alive(state)
        if dead:
            leases = {copy.record.nonce for copy in network}
            if isinstance(state.log.ctl, Lease):
                leases.add(state.log.ctl.nonce)
            dead = tuple(sorted(leases.intersection(dead)))
        if (
            workers is state.workers
            and network is state.network
            and closers is state.closers
            and dead is state.dead
        ):
            return state
        return state._replace(workers=workers, network=network, closers=closers, dead=dead)

    def _alive(self, state: State) -> tuple[Copy, ...]:
        ctl = state.log.last_ctl
        awaited = [worker.publish for worker in state.workers]
        awaited += [closer.publish for closer in state.closers]
        network = [
            copy
            for copy in state.network
            if copy.expect == ctl or copy in awaited or self._is_unchecked(copy.record)
        ]
        return tuple(sorted(network, key=_order) if len(network) > 1 else network)


def _order(copy: Copy) -> tuple[int, int, str]:
    return copy.expect, copy.record.nonce, copy.record.kind
