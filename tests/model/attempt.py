"""The workers of the model: the decisions of `workers.attempt`, one transition each.

Two things are left out because nobody can see them, which keeps the states few. Tokens are made when they are sent,
and how an attempt ends is decided when that is stored: until then neither can be told from a slower engine, and after
a newer lease own tokens that nobody was told of are no prefix of a log that somebody else went on with. And the read
after a refusal comes at once: what was refused once is refused for ever, so a later read is that publish processed
later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from schemas.output import Cause
from tests.model.explore import Step
from tests.model.records import End, Failed, Handoff, Lease, Record, Tok, token_after
from tests.model.scope import Mutation, Scope
from tests.model.state import IDLE, Closing, Copy, Offer, State, Worker

Steps: TypeAlias = Iterator[Step[State]]


class Attempts:
    """What the workers of a state may do next. The index names a worker."""

    def __init__(self, scope: Scope, mutation: Mutation) -> None:
        self._scope = scope
        self._mutation = mutation

    def accept(self, state: State, index: int, offer: Offer) -> Steps:
        """An idle worker takes an offer."""
        worker = Worker(offer.attempt, True, offer.cause)
        if offer.ctl_seq == 0:
            worker = worker._replace(tokens=())
        yield Step("a worker accepts", self._lease(state, index, worker, offer.ctl_seq))
        if state.budget.expiries:
            late = worker._replace(nonce=_new_nonce(state))
            end = Copy(offer.ctl_seq, End(late.nonce, None, (), "expired"))
            yield Step("a worker finds it too late", _send(state.spend("expiries"), index, late, end), True)

    def work(self, state: State, index: int) -> Steps:
        """A busy worker does something by itself."""
        worker = state.workers[index]
        if state.budget.crashes:
            yield Step("a worker is killed", _killed(state.spend("crashes"), index), True)
        if worker.closing == "stopped":
            return
        for offer in dict.fromkeys(state.offers):
            yield Step("a worker: mine", _take_over(state, index, offer))
        if self._is_harmful(worker) and not worker.closing and worker.tokens is not None:
            yield Step("the engine kills its worker", _killed(state, index))
        if worker.publish is None:
            yield from self._advance(state, index, worker)
        else:
            yield from self._wait(state, index, worker, worker.publish)

    def stored(self, state: State, index: int, seq: int) -> Steps:
        """The worker learns that its publish is stored, at `seq`."""
        worker = state.workers[index]
        assert worker.publish is not None
        match worker.publish.record:
            case Lease():
                yield Step("stored: leased", self._leased(state, index, seq))
            case Tok(ids=ids):
                done = worker._replace(logged=worker.logged + len(ids), publish=None)
                yield Step("stored: logged", state.with_worker(index, done))
            case End():
                yield from ack(state.with_worker(index, IDLE), "stored: ended")
            case Failed() | Handoff():
                idle = state.with_worker(index, IDLE)
                if worker.is_held and state.message == "delivered":
                    idle = idle._replace(message="queued")
                yield Step("stored: given back", idle)

    def refused(self, state: State, index: int) -> Steps:
        """The table of the design: the publish was refused, and the last ctl record says what follows."""
        worker, log = state.workers[index], state.log
        publish, record = worker.publish, log.ctl
        assert publish is not None
        if isinstance(record, End):
            yield from ack(state.with_worker(index, IDLE), "refused: END is there")
            return
        if record is not None and record.nonce == worker.nonce:
            if record.kind == publish.record.kind:
                yield from self.stored(state, index, log.last_ctl)
            return
        is_end = isinstance(publish.record, End)
        if is_end and self._mutation == "an owner's END names the newest ctl record":
            yield Step("refused: END again", _send(state, index, worker, Copy(log.last_ctl, publish.record)))
        is_newer = isinstance(record, Lease) and record.attempt >= worker.attempt
        if self._mutation == "a fenced worker leases again without a newer delivery":
            is_newer = False
        if (worker.lease == 0 and is_end) or is_newer or not worker.is_held:
            yield Step("refused: fenced", self._stopped(state, index))
        else:
            if self._mutation != "a lease over another record keeps the cause of its delivery":
                worker = worker._replace(cause=_cause_after(record))
            yield Step("refused: leases again", self._lease(state, index, worker, log.last_ctl))

    def is_in_vain(self, state: State, worker: Worker) -> bool:
        """Whether an attempt runs although the log it began with forbids another one."""
        if not worker.lease or worker.closing or worker.lease != state.log.last_ctl:
            return False
        log = state.log.upto(worker.lease)
        return log.vain_attempts >= self._scope.strikes_max or log.leases > self._scope.attempts_max

    def _is_harmful(self, worker: Worker) -> bool:
        return self._scope.is_poison and worker.attempt <= self._scope.harms_max

    def _advance(self, state: State, index: int, worker: Worker) -> Steps:
        """The lease is there and no publish in flight: what is stored next."""
        tokens, nonce, closing = worker.tokens, worker.nonce, worker.closing
        assert tokens is not None
        waiting = tokens[worker.logged :]
        if closing == "":
            yield from self._run(state, index, worker, tokens)
        elif closing == "failed":
            yield Step("failed", self._publish(state, index, Failed(nonce)))
        elif closing == "handoff" and waiting:
            yield Step("appends", self._publish(state, index, Tok(nonce, worker.logged, waiting)))
        elif closing == "handoff":
            yield Step("hands off", self._publish(state, index, Handoff(nonce, len(tokens))))
        elif closing == "expired":
            end = End(nonce, len(tokens), waiting, "expired")
            yield Step("END(expired)", self._publish(state, index, end))
        elif closing == "poison" and self._mutation != "END before the dead letter":
            yield from self._bury(state, index, worker)
        else:
            end = End(nonce, len(tokens), waiting, "error", "poison")
            yield Step("END(error)", self._publish(state, index, end))

    def _run(self, state: State, index: int, worker: Worker, tokens: tuple[int, ...]) -> Steps:
        """The engine runs."""
        nonce, logged, budget = worker.nonce, worker.logged, state.budget
        if budget.handoffs and logged == len(tokens):
            after = self._publish(state.spend("handoffs"), index, Handoff(nonce, logged), "handoff")
            yield Step("hands off", after, True)
        if budget.expiries:
            end = End(nonce, len(tokens), tokens[logged:], "expired")
            yield Step("END(expired)", self._publish(state.spend("expiries"), index, end, "expired"), True)
        if self._is_harmful(worker):
            yield Step("the engine raises", self._publish(state, index, Failed(nonce), "failed"))
            return
        while True:
            if len(tokens) > logged:
                tok = Tok(nonce, logged, tokens[logged:])
                yield Step("appends", self._publish(_with_tokens(state, index, tokens), index, tok))
            if len(tokens) == self._scope.tokens:
                break
            tokens = (*tokens, token_after(tokens, nonce))
        end = End(nonce, len(tokens), tokens[logged:], "ok")
        yield Step("END(ok)", self._publish(_with_tokens(state, index, tokens), index, end))

    def _bury(self, state: State, index: int, worker: Worker) -> Steps:
        """A copy of a poisoned request is kept before its END says that there is one."""
        is_again = state.letters and self._mutation != "a dead letter is written without CAS"
        buried = state if is_again else state._replace(letters=state.letters + 1)
        yield Step("writes a dead letter", buried.with_worker(index, worker._replace(closing="dead")))
        if state.budget.losses:
            yield Step("writes a dead letter, the answer lost", buried.spend("losses"), True)

    def _wait(self, state: State, index: int, worker: Worker, publish: Copy) -> Steps:
        """A publish is not answered: the same bytes again."""
        yield from self._wait_badly(state, index, worker, publish)
        if isinstance(publish.record, Lease) and not worker.is_held:
            yield Step("the delivery of a worker ran out", self._stopped(state, index))
            return
        again = state._replace(network=(*state.network, publish))
        if publish not in state.network:
            yield Step("sends again", again)
        elif state.budget.losses:
            yield Step("sends twice", again.spend("losses"), True)

    def _wait_badly(self, state: State, index: int, worker: Worker, publish: Copy) -> Steps:
        """What a worker that breaks a rule does while it should wait."""
        mutation, record = self._mutation, publish.record
        if mutation == "ack before the PubAck of END" and isinstance(record, End):
            yield Step("acks early", state.settled())
        if mutation == "an answer to an older publish counts" and worker.lease and state.budget.losses:
            yield from self.stored(state.spend("losses"), index, worker.lease)
        if not isinstance(record, Tok):
            return
        tokens = worker.tokens or ()
        while len(tokens) < self._scope.tokens:
            tokens = (*tokens, token_after(tokens, worker.nonce))
        sent = worker._replace(logged=record.off + len(record.ids), tokens=tokens)
        waiting = tokens[sent.logged :]
        ahead = state.with_worker(index, sent)
        if mutation == "two appends in flight" and waiting:
            tok = Tok(worker.nonce, sent.logged, waiting)
            yield Step("appends more", self._publish(ahead, index, tok))
        if mutation == "other bytes on a retry" and waiting and publish not in state.network:
            tok = record._replace(ids=(*record.ids, *waiting))
            made = _with_tokens(state, index, tokens)
            yield Step("sends more again", self._publish(made, index, tok))
        if mutation == "END before the last append is acknowledged":
            end = End(worker.nonce, len(tokens), waiting, "ok")
            yield Step("ends early", self._publish(ahead, index, end))
        if mutation == "hand-off before the last append is acknowledged" and state.budget.handoffs:
            handoff = Handoff(worker.nonce, sent.logged)
            after = self._publish(ahead.spend("handoffs"), index, handoff, "handoff")
            yield Step("hands off early", after, True)

    def _lease(self, state: State, index: int, worker: Worker, expect: int) -> State:
        if self._mutation == "the log is read before the lease":
            ids = state.log.ids
            worker = worker._replace(tokens=ids, logged=len(ids))
        nonce = _new_nonce(state)
        lease = Copy(expect, Lease(nonce, worker.attempt, worker.cause))
        return _send(state, index, worker._replace(nonce=nonce, lease=0), lease)

    def _leased(self, state: State, index: int, seq: int) -> State:
        """The lease is stored at `seq`: the log up to it is what is continued, with own tokens that extend it."""
        worker, scope, log = state.workers[index], self._scope, state.log.upto(seq)
        worker = worker._replace(lease=seq, publish=None)
        if self._mutation == "the log is read before the lease":
            return state.with_worker(index, worker)
        ids, own = log.ids, worker.tokens
        is_kept = own is not None and own[: len(ids)] == ids
        if self._mutation == "a re-lease keeps own tokens although the log differs":
            is_kept = own is not None and len(own) >= len(ids)
        worker = worker._replace(logged=len(ids), tokens=own if is_kept else ids)
        are_too_many = log.leases > scope.attempts_max and self._mutation != "attempts are not counted"
        if self._strikes(state, seq) >= scope.strikes_max or are_too_many:
            worker = worker._replace(tokens=ids, closing="poison")
        return state.with_worker(index, worker)

    def _strikes(self, state: State, seq: int) -> int:
        log = state.log.upto(seq)
        if self._mutation == "strikes are not folded":
            return 0
        if self._mutation == "every lease without a token is a strike":
            toks = [place for place, record in enumerate(log.visible) if isinstance(record, Tok)]
            trailing = log.visible[toks[-1] if toks else 1 :]
            return sum(isinstance(record, Lease) for record in trailing)
        return log.vain_attempts

    def _stopped(self, state: State, index: int) -> State:
        """No sign, NAK or ack any more: somebody else has the request."""
        if self._mutation == "ack when fenced":
            state = state.settled()
        if self._mutation == "signs of progress after being fenced":
            return state.with_worker(index, state.workers[index]._replace(closing="stopped", publish=None))
        return state.with_worker(index, IDLE)

    def _publish(self, state: State, index: int, record: Record, closing: Closing = "") -> State:
        worker = state.workers[index]
        if closing:
            worker = worker._replace(closing=closing)
        return _send(state, index, worker, Copy(worker.lease, record))


def ack(state: State, label: str) -> Steps:
    """The message is acknowledged, unless that is lost."""
    yield Step(label, state.settled())
    if state.budget.losses:
        yield Step(f"{label}, the ack lost", state.spend("losses"), True)


def _send(state: State, index: int, worker: Worker, copy: Copy) -> State:
    state = state.with_worker(index, worker._replace(publish=copy))
    return state._replace(network=(*state.network, copy))


def _with_tokens(state: State, index: int, tokens: tuple[int, ...]) -> State:
    return state.with_worker(index, state.workers[index]._replace(tokens=tokens))


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
    used = {copy.record.nonce for copy in state.network}
    used.update(worker.nonce for worker in state.workers)
    used |= state.log.nonces
    nonce = 1
    while nonce in used:
        nonce += 1
    return nonce
