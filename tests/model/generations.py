"""The generations of one idempotency key: which run a request attaches to, and that there is one.

A key's generation g has a rid of its own, the same at every edge. An edge reads `ctl` of each generation in turn from
the stream's leader, takes the highest that exists, or one more if that ended not ok, or the first if there is none, and
attaches to it if it exists; else it publishes the request under that rid. A refused publish (there is such a message,
or the duplicate window knows it) means attaching, too. Whose answer it is says the log, with the fingerprint of the
body it was made for: it is compared after an accepted publish as well, because an earlier message of the same rid may
have come and gone unseen. (To compare with a message that waits only makes the refusal earlier.)

The life of a run is its own model; here it is queued, begun, over and aged out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from tests.model.explore import Step

GENERATIONS = 3
"""Of the eight there are: one for each run that may end not ok here, and one."""

Mutation = Literal[
    "",
    "each retry has a rid of its own",
    "the first generation without a log is taken",
    "a generation that runs is followed by another",
    "a generation that ended ok is followed by another",
    "a run that ended not ok is replayed",
    "generations are read from a replica that lags",
    "a subject takes two messages",
    "bodies are not compared",
    "bodies are not compared after an accepted publish",
]


Phase = Literal[
    "away", "reading", "publishing", "unanswered", "attached", "served", "refused", "deceived", "stale"
]
"""The last four are how it ends: with the answer, without one, and with a wrong one of either kind."""

_OVER = ("served", "refused", "deceived", "stale")


class Generation(NamedTuple):
    """`body` is what was asked for by whoever published first, `messages` are in REQUESTS, `is_known` to the duplicate
    window."""

    messages: int = 0
    is_known: bool = False
    queued_body: int = 0
    log: Literal["", "running", "ok", "failed"] = ""
    body: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether it runs, will run, or has the answer. (With a log that is over, a message is only acknowledged.)"""
        return self.log in ("running", "ok") or (self.messages > 0 and not self.log)


class Client(NamedTuple):
    """A client's request at an edge. `at`: the generation that is read next, then the one that was decided on.
    `highest` exists, as far as was read, and `has_failed`. The first `floor` runs had ended not ok when it came."""

    body: int
    phase: Phase = "away"
    at: int = 0
    highest: int = -1
    has_failed: bool = False
    floor: int = 0
    is_own: bool = False
    """Whether its own publish was accepted."""


class State(NamedTuple):
    """What the streams hold of each generation, who asks, and how many faults may still happen."""

    generations: tuple[Generation, ...]
    clients: tuple[Client, ...]
    failures: int
    lapses: int
    losses: int
    ageings: int

    def with_generation(self, g: int, **changes: Any) -> State:
        """With another generation in one place."""
        generations = self.generations
        changed = generations[g]._replace(**changes)
        return self._replace(generations=(*generations[:g], changed, *generations[g + 1 :]))

    def with_client(self, index: int, **changes: Any) -> State:
        """With another client in one place; alike clients have no order."""
        clients = list(self.clients)
        client = clients[index]._replace(**changes)
        clients[index] = Client(client.body, client.phase) if client.phase in _OVER else client
        return self._replace(clients=tuple(sorted(clients)))


Steps: TypeAlias = Iterator[Step[State]]


class Key:
    """Requests with these bodies, all with the same key, with one rule broken by `mutation`."""

    def __init__(self, initial: State, mutation: Mutation = "") -> None:
        self.initial = initial
        self._mutation = mutation

    def steps(self, state: State) -> Steps:
        """All that can happen next."""
        for index, client in enumerate(state.clients):
            if index == 0 or client != state.clients[index - 1]:
                yield from self._serve(state, index, client)
        for g, generation in enumerate(state.generations):
            yield from self._run(state, g, generation)
        if state.lapses:
            # It is over, or the broker was restarted.
            forgotten = tuple([one._replace(is_known=False) for one in state.generations])
            after = state._replace(generations=forgotten, lapses=state.lapses - 1)
            yield Step("the duplicate window is forgotten", after, True)
        yield from self._age(state)

    def violation(self, state: State) -> str | None:
        """Which of the design's invariants does not hold."""
        if sum(generation.is_alive for generation in state.generations) > 1:
            return "I9: two runs of one key"
        if any(generation.messages > 1 for generation in state.generations):
            return "I9: two messages of one request"
        phases = [client.phase for client in state.clients]
        if "deceived" in phases:
            return "I11: a client was shown the answer to another body"
        return "I9: a retry was shown the run that had ended not ok before" if "stale" in phases else None

    def is_done(self, state: State) -> bool:
        """Everybody has an answer, and nothing waits."""
        return _are_answered(state) and not any(generation.messages for generation in state.generations)

    # An edge.

    def _serve(self, state: State, index: int, client: Client) -> Steps:
        match client.phase:
            case "away":
                failed = [g for g, generation in enumerate(state.generations) if generation.log == "failed"]
                floor = failed[-1] + 1 if failed else 0
                yield Step("a client asks", state.with_client(index, phase="reading", floor=floor), True)
            case "reading" if client.at < GENERATIONS:
                yield from self._read(state, index, client)
            case "reading":
                yield self._decide(state, index, client)
            case "publishing":
                yield from self._publish(state, index, client)
            case "unanswered":
                yield Step("published again", state.with_client(index, phase="publishing"))
            case "attached":
                yield from self._follow(state, index, client)

    def _read(self, state: State, index: int, client: Client) -> Steps:
        seen = state.generations[client.at].log
        unread = state.with_client(index, at=client.at + 1)
        if self._mutation == "generations are read from a replica that lags":
            yield Step("a replica knows of no log", unread, True)
        if self._mutation == "the first generation without a log is taken" and not seen:
            yield Step("a generation without a log", state.with_client(index, at=GENERATIONS))
        elif seen:
            read: dict[str, Any] = {"highest": client.at, "has_failed": seen == "failed"}
            if self._mutation == "a generation that ended ok is followed by another":
                read["has_failed"] = seen in ("failed", "ok")
            if self._mutation == "a generation that runs is followed by another":
                read["has_failed"] = seen in ("failed", "running")
            if self._mutation == "a run that ended not ok is replayed":
                read["has_failed"] = False
            yield Step("a log was read", state.with_client(index, at=client.at + 1, **read))
        else:
            yield Step("no log", unread)

    def _decide(self, state: State, index: int, client: Client) -> Step[State]:
        if self._mutation == "each retry has a rid of its own":
            free = [g for g, one in enumerate(state.generations) if not one.messages and not one.log]
            return Step("decided", state.with_client(index, at=free[0], phase="publishing"))
        if client.highest >= 0 and not client.has_failed:
            return Step("decided", state.with_client(index, at=client.highest, phase="attached"))
        chosen = client.highest + 1
        if chosen == GENERATIONS:
            return Step("too many runs ended not ok", state.with_client(index, phase="refused"))
        return Step("decided", state.with_client(index, at=chosen, phase="publishing"))

    def _publish(self, state: State, index: int, client: Client) -> Steps:
        generation = state.generations[client.at]
        is_full = generation.messages > 0 and self._mutation != "a subject takes two messages"
        is_refused = generation.is_known or is_full
        after = state
        if not is_refused:
            messages = generation.messages + 1
            after = state.with_generation(
                client.at, messages=messages, is_known=True, queued_body=client.body
            )
        if state.losses:
            lost = after.with_client(index, phase="unanswered")
            yield Step("published, the answer lost", lost._replace(losses=state.losses - 1), True)
        attached = after.with_client(index, phase="attached", is_own=not is_refused)
        yield Step("refused: it exists" if is_refused else "published", attached)

    def _follow(self, state: State, index: int, client: Client) -> Steps:
        generation = state.generations[client.at]
        is_other = generation.body != client.body
        if not generation.log:
            if not generation.messages:
                yield Step("nothing is there any more", state.with_client(index, phase="refused"))
        elif is_other and self._compares(client):
            yield Step("the log is of another body", state.with_client(index, phase="refused"))
        elif generation.log != "running":
            phase: Phase = "deceived" if is_other else "stale" if client.at < client.floor else "served"
            yield Step("the answer is shown", state.with_client(index, phase=phase))

    def _compares(self, client: Client) -> bool:
        if self._mutation == "bodies are not compared after an accepted publish":
            return not client.is_own
        return self._mutation != "bodies are not compared"

    # The rest of the system.

    def _run(self, state: State, g: int, generation: Generation) -> Steps:
        if generation.messages and not generation.log:
            body = generation.queued_body
            yield Step("a worker leases", state.with_generation(g, log="running", body=body))
        if generation.log == "running":
            yield Step("END(ok)", state.with_generation(g, log="ok"))
            if state.failures:
                failed = state.with_generation(g, log="failed")
                yield Step("END, not ok", failed._replace(failures=state.failures - 1), True)
        if generation.messages and generation.log in ("ok", "failed"):
            yield Step("acknowledged", state.with_generation(g, messages=generation.messages - 1))

    def _age(self, state: State) -> Steps:
        """What is over long enough is there no more, the oldest first; no edge takes that long to decide."""
        if not state.ageings or not all(
            client.phase in ("away", "served", "refused") for client in state.clients
        ):
            return
        for g, generation in enumerate(state.generations):
            if generation.log:
                if generation.log != "running" and not generation.messages:
                    aged = state.with_generation(g, log="", is_known=False)
                    yield Step("a log ages out", aged._replace(ageings=state.ageings - 1), True)
                return


def _are_answered(state: State) -> bool:
    return all(client.phase == "away" or client.phase in _OVER for client in state.clients)
