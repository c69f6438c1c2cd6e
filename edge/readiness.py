"""Whether an edge can serve: it hears the leader, somebody runs a model, and it is not stopping."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from edge.registry import Registry
from infra.bus import Bus
from infra.logs import get_logger
from schemas import subjects
from schemas.dispatch import Leader, decode_leader

_log = get_logger("edge")


class Readiness:
    """`on_leader` is called with each of the leader's heartbeats, `on_change` when there is another leader."""

    def __init__(
        self,
        bus: Bus,
        registry: Registry,
        *,
        on_leader: Callable[[Leader], None],
        on_change: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._registry = registry
        self._on_leader = on_leader
        self._on_change = on_change
        self._on_ready: Callable[[], None] = lambda: None
        self._now = asyncio.get_running_loop().time
        self._heard = asyncio.Event()
        self._term = 0
        self._is_stopping = False

    def start(self) -> None:
        """Begins to listen to the leader."""
        self._bus.subscribe(subjects.LEADER, self._on_heartbeat)

    @property
    def ready(self) -> bool:
        """Whether a request that came now could be run."""
        return self._bus.connected and self._registry.has_live_worker() and not self._is_stopping

    async def first_word(self, timeout_s: float) -> None:
        """Returns once the leader was heard and models are known, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()

    def when_ready(self, tell: Callable[[], None]) -> None:
        """Calls `tell` as soon as a request could be run, and again at any such moment later."""
        self._on_ready = tell
        if self.ready:
            tell()

    def stop(self) -> None:
        """Ready no more, whatever is heard."""
        self._is_stopping = True

    def _on_heartbeat(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            leader = decode_leader(payload)
        except ValueError as error:
            _log.warning("not a leader's heartbeat", error=str(error))
            return
        self._registry.heard(leader, self._now())
        self._on_leader(leader)
        self._heard.set()
        if leader.term > self._term:
            self._term = leader.term
            self._on_change()
        if self.ready:
            self._on_ready()
