"""How long a delivery is still ours: progress signs (+WPI) and what may be done with it."""

from __future__ import annotations

from math import inf


class Holding:
    """One delivery. A third of `ack_wait_s` after the last sign it is time for another; half of it after the last sign
    nothing may be based on the delivery any more (no lease, no NAK): the other half covers clocks and the way to the
    broker. An ack on a seen END is right at any time.
    """

    def __init__(self, ack_wait_s: float, now: float) -> None:
        self._ack_wait_s = ack_wait_s
        self.sign_at = inf
        self._signed_at = self._until = now
        self.renew(now)

    def renew(self, now: float) -> None:
        """A newer delivery was taken over from a scheduler that held it until now."""
        self._signed_at = now
        self._until = now + self._ack_wait_s / 2
        self.sign_at = now + self._ack_wait_s / 3

    def is_held(self, now: float) -> bool:
        """Whether a lease or a NAK may still be based on the delivery."""
        return now <= self._until

    def sign(self, now: float) -> None:
        """A sign is sent now. A delivery that was let go is not ours again by signing: only an offer renews it."""
        if self.is_held(now):
            self._until = now + self._ack_wait_s / 2
        self._signed_at = now
        self.sign_at = now + self._ack_wait_s / 3

    def skip(self, now: float) -> None:
        """The engine stands still, so no sign now: look again soon, it may only have been slow."""
        self.sign_at = now + self._ack_wait_s / 12

    def connection_changed(self, connected: bool, now: float) -> None:
        """Signs are due only while they can be sent."""
        self.sign_at = max(now, self._signed_at + self._ack_wait_s / 3) if connected else inf
