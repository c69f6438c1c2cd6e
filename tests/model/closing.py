"""Those who end a request that they do not run: by a CAS of END on the ctl chain, like everybody else.

A canceller names the last ctl record and tries again until there is an END. An edge whose client has waited too long
for a worker names none at all, so it ends only what nobody has begun. A scheduler that holds a request past its time
names what it read before. None of them knows what is in flight, so their END carries no n. But for the scheduler,
which holds the message, each may stop at any time, so what they do counts as a fault: nothing may depend on it.
"""

from __future__ import annotations

from tests.model.attempt import Steps, ack
from tests.model.explore import Step
from tests.model.records import End
from tests.model.scope import Mutation
from tests.model.state import Closer, Copy, Offer, State


class Closers:
    """What the closers of a state may do next."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def work(self, state: State) -> Steps:
        """A closer does something by itself."""
        for closer in state.closers:
            if closer.publish is not None:
                if closer.publish not in state.network:
                    again = (*state.network, closer.publish)
                    is_needed = closer.kind == "leader"
                    after = state._replace(network=again)
                    yield Step(f"the {closer.kind} sends END again", after, not is_needed)
            elif closer.kind == "canceller":
                yield from self._cancel(state, closer)
            elif state.log.end is None:
                names_newest = self._mutation == "a queue time-out names the newest ctl record"
                expect = state.log.last_ctl if names_newest else 0
                end = Copy(expect, End(0, None, (), "expired", "queue_timeout"))
                yield Step("the client waited too long in the queue", self._send(state, closer, end), True)

    def expire(self, state: State, offer: Offer) -> State:
        """A scheduler finds what it holds too late, by the log as it read it."""
        offers = tuple(other for other in state.offers if other is not offer)
        before = state._replace(offers=offers).spend("expiries")
        return self._send(before, Closer("leader"), Copy(offer.ctl_seq, End(0, None, (), "expired")))

    def answered(self, state: State, closer: Closer, *, is_stored: bool) -> Steps:
        """A closer learns what became of its END."""
        waiting = _with(state, closer, closer._replace(publish=None))
        if closer.kind == "canceller":
            # What it does next depends on the log alone, whoever wrote the END that is there.
            yield Step("the canceller is answered", waiting)
        elif closer.kind == "queue":
            # Settling is the leader's: the next delivery finds END.
            yield Step("the edge is answered", _with(state, closer, None))
        elif is_stored or state.log.end is not None:
            yield from ack(_with(state, closer, None), "the leader finds END")
        else:
            back = _with(state, closer, None)
            if state.message == "delivered":
                back = back._replace(message="queued")
            yield Step("the leader gives back", back)

    def _cancel(self, state: State, closer: Closer) -> Steps:
        if self._mutation == "the message is settled before END on a cancel":
            yield Step("the message is settled", state.settled())
        if state.log.end is not None:
            # A hint to the leader, who looks at the log first.
            yield Step("the message is settled", _with(state, closer, None).settled(), True)
            return
        carries_n = self._mutation == "the END of a canceller carries n"
        end = End(0, len(state.log.ids) if carries_n else None, (), "cancelled")
        yield Step("the canceller sends END", self._send(state, closer, Copy(state.log.last_ctl, end)), True)

    def _send(self, state: State, closer: Closer, end: Copy) -> State:
        after = _with(state, closer, closer._replace(publish=end))
        return after._replace(network=(*state.network, end))


def _with(state: State, old: Closer, new: Closer | None) -> State:
    closers = [closer for closer in state.closers if closer is not old]
    if new is not None:
        closers.append(new)
    return state._replace(closers=tuple(closers))
