"""When a stream says something although no token came. Pure; `now` is monotonic seconds."""

from __future__ import annotations

from typing import Literal


class Pacer:
    """The HTTP head goes out with the first output, at the latest after `head_wait_s`: until then a failure can still
    be a status code. After it, `keep_alive_s` of silence make a comment, for the proxies in between."""

    def __init__(self, now: float, *, head_wait_s: float, keep_alive_s: float) -> None:
        self._keep_alive_s = keep_alive_s
        self._head_out = False
        self._due = now + head_wait_s

    def wrote(self, now: float) -> None:
        """Something was sent, and the head with it or before it."""
        self._head_out = True
        self._due = now + self._keep_alive_s

    def due(self, now: float) -> Literal["head", "keep_alive"] | None:
        """What to send now."""
        if now < self._due:
            return None
        return "keep_alive" if self._head_out else "head"

    def next_deadline(self) -> float:
        """When to ask again."""
        return self._due
