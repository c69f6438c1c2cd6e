"""Who leads: the scheduler that owns a key which vanishes when it is not renewed.

Pure: `handle` takes what happened and returns which calls to make on the key. One call is under way at a time. A second
leader would do no harm, so this need not be perfect, only quick: the key makes sure that there is nearly always one.
"""

from __future__ import annotations

from math import inf
from typing import assert_never

import msgspec


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class Written(msgspec.Struct, frozen=True):
    """The call under way set the key; its revision grows with every write."""

    revision: int


class Refused(msgspec.Struct, frozen=True):
    """The call under way found that the key is somebody else's."""


class Unanswered(msgspec.Struct, frozen=True):
    """Nobody knows what became of the call under way."""


class Freed(msgspec.Struct, frozen=True):
    """The leader gives the key back just now: it is free, or will be in a moment."""


class Stop(msgspec.Struct, frozen=True):
    """This scheduler goes away."""


Event = Tick | Written | Refused | Unanswered | Freed | Stop


class Create(msgspec.Struct, frozen=True):
    """Set the key if it is not there."""


class Renew(msgspec.Struct, frozen=True):
    """Set the key again if its revision is still `revision`."""

    revision: int


class Release(msgspec.Struct, frozen=True):
    """Delete the key if its revision is still `revision`, so that another one need not wait. No answer is wanted."""

    revision: int


class Lead(msgspec.Struct, frozen=True):
    """This scheduler leads from now on; `term` is greater than that of every leader before."""

    term: int


class StepDown(msgspec.Struct, frozen=True):
    """This scheduler may be not the only leader any more."""


Action = Create | Renew | Release | Lead | StepDown


HURRY_S = 0.5
HURRY_EVERY_S = 0.02
"""The word that the key is given back can be faster than the key: some reads more, once per change of leaders."""


class Election:
    """One scheduler's part in the election. The key lives for `ttl_s` after each write.

    A leader renews every third of that and steps down when its last renewal is two thirds old, so that the key has at
    least the last third to vanish in. A standby tries twice as often: it costs one read, and the wait is an outage.
    When the key is given back it tries at once, and for `HURRY_S` every `HURRY_EVERY_S`.
    """

    def __init__(self, *, ttl_s: float) -> None:
        self._renew_every_s = ttl_s / 3
        self._try_every_s = ttl_s / 6
        self._valid_s = ttl_s * 2 / 3
        self._revision: int | None = None
        self._valid_until = -inf
        self._asked_at: float | None = None
        self._next_at = -inf
        self._hurry_until = -inf
        self._stopping = False

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes in one event."""
        actions: list[Action] = []
        if self._revision is not None and now >= self._valid_until:
            self._step_down(actions, now)
        match event:
            case Tick():
                pass
            case Written(revision):
                self._on_written(revision, actions, now)
            case Refused():
                self._on_refused(actions, now)
            case Unanswered():
                self._asked_at = None
                self._next_at = now + self._try_every_s
            case Freed():
                self._hurry_until = now + HURRY_S
                self._next_at = min(self._next_at, now)
            case Stop():
                self._stopping = True
                if self._revision is not None:
                    actions.append(Release(self._revision))
                    self._step_down(actions, now)
            case _:
                assert_never(event)
        if self._asked_at is None and self._next_at <= now and not self._stopping:
            self._asked_at = now
            actions.append(Create() if self._revision is None else Renew(self._revision))
        return actions

    @property
    def leading(self) -> bool:
        """Whether this scheduler leads."""
        return self._revision is not None

    def next_deadline(self) -> float | None:
        """When `handle(Tick())` is wanted at the latest."""
        call_at = inf if self._asked_at is not None or self._stopping else self._next_at
        end_at = self._valid_until if self._revision is not None else inf
        at = min(call_at, end_at)
        return None if at == inf else at

    def check(self) -> None:
        """Asserts its invariants."""
        assert not (self._stopping and self.leading)

    def _on_written(self, revision: int, actions: list[Action], now: float) -> None:
        asked_at, self._asked_at = self._asked_at, None
        assert asked_at is not None, "an answer follows a call"
        renewed = self._revision is not None
        valid_until = asked_at + self._valid_s
        # The key may have been written after this scheduler gave up leading: it is not to block the next one.
        if self._stopping or now >= valid_until:
            actions.append(Release(revision))
            self._next_at = now + self._try_every_s
            return
        self._revision = revision
        self._valid_until = valid_until
        self._next_at = asked_at + self._renew_every_s
        if not renewed:
            actions.append(Lead(revision))

    def _on_refused(self, actions: list[Action], now: float) -> None:
        self._asked_at = None
        if self._revision is not None:
            self._step_down(actions, now)
        self._next_at = now + (HURRY_EVERY_S if now < self._hurry_until else self._try_every_s)

    def _step_down(self, actions: list[Action], now: float) -> None:
        self._revision = None
        self._next_at = now + self._try_every_s
        actions.append(StepDown())
