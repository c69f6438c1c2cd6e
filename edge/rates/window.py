"""The arithmetic of a sliding window, made of two fixed ones. Pure; times are in seconds.

What was counted in the window before counts by the share of it that a window ending now still covers. That takes its
requests for evenly spread: no fixed window ever has more than the limit, while two bursts, one late in a window and
one in the next, may be up to the limit each within less than a window's length.
"""

from __future__ import annotations

from math import floor
from typing import NamedTuple


class Window(NamedTuple):
    """What is counted of one caller. `left_s`: until the present window ends."""

    amount: int
    window_s: int
    previous: int
    current: int
    left_s: float

    @property
    def used(self) -> float:
        """What counts against `amount` now."""
        return self.previous * self.left_s / self.window_s + self.current

    @property
    def remaining(self) -> int:
        """What may still be asked for; never negative, nor more than `amount`."""
        return min(self.amount, max(0, self.amount - floor(self.used)))

    @property
    def reset_s(self) -> float:
        """When all of it may be asked for again, if nothing is till then."""
        if self.current > 0:
            return self.left_s + self.window_s
        return self.left_s if self.previous > 0 else 0.0

    def wait_s(self, cost: int) -> float | None:
        """When `cost` more fit, if nothing else comes till then; None: never."""
        room = self.amount - cost + 1
        if room <= 0:
            return None
        if self.current < room:
            # The window before weighs less and less.
            if self.used < room:
                return 0.0
            return self.left_s - (room - self.current) * self.window_s / self.previous
        # Only as the window before of the next one does this one weigh less.
        return self.left_s + self.window_s - room * self.window_s / self.current


def duration(seconds: float) -> str:
    """As OpenAI's `x-ratelimit-reset-*` have it: `17ms`, `1.2s`, `6m0s`, `1h0m3s`. Rounded up."""
    milliseconds = max(0, -floor(-seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, rest = divmod(-(-milliseconds // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
