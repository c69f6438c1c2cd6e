"""The answers that are open at this edge: `edge.readers` on the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from edge.answers import Answer
from edge.readers import READER_BYTES_MAX, Action, Leaving, Readers, Tell
from infra.bus import Bus
from infra.logs import get_logger
from schemas import subjects
from schemas.dispatch import EdgeBeat, decode_edge_beat, encode
from schemas.ids import RequestId, TenantKey

_log = get_logger("audience")


class Audience:
    """`answers_max` may be open at the same time, and no more than one beat can list; `cancel` ends a request that
    nobody reads any more."""

    def __init__(
        self,
        bus: Bus,
        edge: str,
        *,
        answers_max: int,
        interval_s: float,
        farewell_s: float,
        cancel: Callable[[TenantKey, RequestId], None],
    ) -> None:
        self.on_beat: Callable[[EdgeBeat], None] = lambda _beat: None
        """Called with every edge's heartbeat, its own as well."""
        self._bus = bus
        self._answers_max = min(answers_max, bus.max_payload // READER_BYTES_MAX)
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._readers = Readers(edge, self._loop.time(), interval_s=interval_s, farewell_s=farewell_s)
        self._numbers = count()
        self._open: dict[Answer, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to listen to the other edges, and to tell them."""
        self._bus.subscribe(subjects.EDGE, self._on_beat)
        self._on_timer()

    @property
    def full(self) -> bool:
        """Whether no more answers can be opened."""
        return len(self._open) >= self._answers_max

    @property
    def answers(self) -> list[Answer]:
        """Those that are open now."""
        return list(self._open)

    def join(self, answer: Answer, grace_s: float | None, *, shared: bool) -> None:
        """An answer opens; see `Readers.join`."""
        self._open[answer] = number = next(self._numbers)
        ticket = answer.ticket
        self._perform(self._readers.join(number, ticket.tenant, ticket.rid, grace_s, shared=shared))

    def share(self, answer: Answer) -> None:
        """Its request turns out to be read by others, too."""
        self._perform(self._readers.share(answer.ticket.tenant, answer.ticket.rid))

    def leave(self, answer: Answer, why: Leaving) -> None:
        """An answer has ended."""
        number = self._open.pop(answer)
        self._perform(self._readers.leave(number, answer.ticket.tenant, answer.ticket.rid, why))

    def tell(self) -> None:
        """Tells at once who reads here: somebody listens who does not know."""
        self._perform(self._readers.tell(self._loop.time()))

    def drain(self) -> None:
        """The edge stops; see `Readers.drain`."""
        self._perform(self._readers.drain(self._loop.time()))

    def close(self) -> None:
        """The last word."""
        if self._timer is not None:
            self._timer.cancel()
        self._perform(self._readers.close())

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Tell):
                # Lost while the broker is away: the next one says all.
                self._bus.publish(subjects.EDGE, encode(action.beat))
            else:
                self._cancel(action.tenant, action.rid)

    def _on_beat(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            beat = decode_edge_beat(payload)
        except ValueError as error:
            _log.warning("not an edge's heartbeat", error=str(error))
        else:
            self._readers.heard(beat)
            self.on_beat(beat)

    def _on_timer(self) -> None:
        self._perform(self._readers.tick(self._loop.time()))
        self._timer = self._loop.call_at(self._readers.next_deadline(), self._on_timer)
