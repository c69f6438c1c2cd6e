"""What the rates have counted of one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edge.call import Rate
from edge.errors import Header
from edge.rates.window import Window, duration


class Counted(NamedTuple):
    """One request's part of one rate. `window`: None if it could not be counted; then it was let in."""

    what: str
    rate: Rate
    cost: int
    at: float
    fits: bool = True
    window: Window | None = None

    @property
    def headers(self) -> list[Header]:
        """Limit, rest, and when the rest is the limit again, as OpenAI names them."""
        name = self.what.encode()
        headers = [(b"x-ratelimit-limit-" + name, b"%d" % self.rate.amount)]
        if self.window is not None:
            headers.append((b"x-ratelimit-remaining-" + name, b"%d" % self.window.remaining))
            headers.append((b"x-ratelimit-reset-" + name, duration(self.window.reset_s).encode()))
        return headers


class Knock:
    """A request that was counted before it is known whether it is a new one: the limit takes it over, or it is given
    back."""

    def __init__(self, counted: Counted | None, give_back: Callable[[Counted], None]) -> None:
        self._counted = counted
        self._give_back = give_back

    def take(self) -> list[Counted]:
        """What was counted, from now on the caller's to give back."""
        taken, self._counted = self._counted, None
        return [] if taken is None else [taken]

    def over(self) -> None:
        """Whoever has not been taken was no new request."""
        for counted in self.take():
            self._give_back(counted)
