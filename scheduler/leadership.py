"""The shell of the election: calls on the leader's key, and what a new leader is told."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any, assert_never

from infra.jetstream import JetStream
from infra.kv import KeyValue
from infra.lifecycle import RoleContext
from infra.logs import get_logger
from scheduler import election, events
from scheduler.election import Election
from scheduler.models import recall, remembered
from schemas import streams
from schemas.dispatch import ModelCard
from schemas.errors import BrokerAway, BrokerRefused

_LEADER_KEY = "leader"

_log = get_logger("scheduler")


class Leadership:
    """One scheduler's part in the election, and the models that leaders remember for each other."""

    def __init__(
        self,
        context: RoleContext,
        js: JetStream,
        *,
        clock: Callable[[], float],
        handle: Callable[[events.Event], None],
        rearm: Callable[[], None],
    ) -> None:
        self._id = context.id.encode()
        self._spawn = context.spawn
        self._clock = clock
        self._handle = handle
        self._rearm = rearm
        self._key = KeyValue(js, streams.LEADER_BUCKET)
        self._models = KeyValue(js, streams.MODELS_BUCKET)
        self._election = Election(ttl_s=context.settings.leader_ttl_s)
        self._calls = 0

    @property
    def busy(self) -> bool:
        """Whether a call on the key is under way."""
        return self._calls > 0

    def next_deadline(self) -> float:
        """When `tick` is wanted at the latest."""
        return self._election.next_deadline() or inf

    def start(self) -> None:
        """Stands for election."""
        self._key.on_delete(_LEADER_KEY, lambda: self._elect(election.Freed()))
        self.tick()

    def tick(self) -> None:
        """Time has passed."""
        self._elect(election.Tick())

    def stop(self) -> None:
        """Gives leadership up, for good."""
        self._elect(election.Stop())

    async def remember(self, card: ModelCard) -> None:
        """Stores that a model was seen just now."""
        try:
            await self._models.put(card.key, remembered(card, time.time()))
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("model not remembered", model=card.key, error=str(error))

    def _elect(self, event: election.Event) -> None:
        for action in self._election.handle(event, self._clock()):
            match action:
                case election.Create():
                    self._call(self._write(self._key.create(_LEADER_KEY, self._id)))
                case election.Renew(revision):
                    self._call(self._write(self._key.update(_LEADER_KEY, self._id, revision)))
                case election.Release(revision):
                    self._call(self._release(revision))
                case election.Lead(term):
                    self._spawn(self._lead(term), "lead")
                case election.StepDown():
                    _log.info("leads no more")
                    self._handle(events.LostLeadership())
                case _:
                    assert_never(action)
        self._rearm()

    def _call(self, call: Coroutine[Any, Any, None]) -> None:
        self._calls += 1
        self._spawn(call, "leadership key")

    async def _write(self, write: Awaitable[int | None]) -> None:
        event: election.Event = election.Unanswered()
        try:
            revision = await write
            event = election.Refused() if revision is None else election.Written(revision)
        except (BrokerAway, BrokerRefused) as error:
            # Once a second for as long as the broker is away, and the bus has said so already.
            _log.debug("leadership key not reached", error=str(error))
        self._calls -= 1
        self._elect(event)

    async def _release(self, revision: int) -> None:
        try:
            await self._key.delete(_LEADER_KEY, revision)
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("leadership key not released", error=str(error))
        self._calls -= 1

    async def _lead(self, term: int) -> None:
        """Takes over with what earlier leaders remembered; without it, pulls tell the rest."""
        known: list[events.KnownModel] = []
        try:
            items = await self._models.items()
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("models not read", error=str(error))
        else:
            known = [model for value in items.values() if (model := recall(value, time.time()))]
        if self._election.leading:
            _log.info("leads", term=term, models=len(known))
            self._handle(events.BecameLeader(term, known))
