"""What a client asks for in headers: what its leaving means, a key for its retries, how long it can wait. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge.errors import Problem

ON_DISCONNECT_HEADER = "x-penstock-on-disconnect"
KEY_HEADER = "idempotency-key"
DEADLINE_HEADER = "x-penstock-deadline"

KEY_CHARS_MAX = 255
"""As other APIs have it; what a client makes keys of (a UUID, an order number) is far shorter."""

_KEY = re.compile(f"[!-~]{{1,{KEY_CHARS_MAX}}}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class WishDefaults:
    """The settings of the same names: what holds where a client says nothing, and the longest time it may ask for."""

    on_disconnect: str
    idempotency_grace_s: float
    request_timeout_max_s: float


@dataclass(frozen=True)
class Wishes:
    """`grace_s`: see `RequestMeta.grace_s`. `key`: the idempotency key. `deadline_s`: seconds from now on."""

    grace_s: float | None
    key: str | None
    deadline_s: float | None


def wishes_of(headers: Mapping[str, str], defaults: WishDefaults) -> Wishes | Problem:
    """The wishes in a client's `headers`, by lower-case name. A wish that cannot be read is refused, never dropped."""
    key = headers.get(KEY_HEADER)
    if key is not None and _KEY.fullmatch(key) is None:
        return Problem(
            "bad_request", f"{KEY_HEADER} must be 1 to {KEY_CHARS_MAX} visible ASCII characters", KEY_HEADER
        )
    deadline_s = _deadline(headers, defaults)
    if isinstance(deadline_s, Problem):
        return deadline_s
    grace_s = _grace(headers, defaults, keyed=key is not None)
    if isinstance(grace_s, Problem):
        return grace_s
    return Wishes(grace_s, key, deadline_s)


def _deadline(headers: Mapping[str, str], defaults: WishDefaults) -> float | Problem | None:
    text = headers.get(DEADLINE_HEADER)
    if text is None:
        return None
    seconds = _seconds(text)
    if seconds is None or not 0 < seconds <= defaults.request_timeout_max_s:
        return Problem(
            "bad_request",
            f"{DEADLINE_HEADER} must be seconds, above 0 and at most {defaults.request_timeout_max_s:g}",
            DEADLINE_HEADER,
        )
    return seconds


def _grace(headers: Mapping[str, str], defaults: WishDefaults, *, keyed: bool) -> float | Problem | None:
    text = headers.get(ON_DISCONNECT_HEADER)
    if text is None and keyed:
        return defaults.idempotency_grace_s
    policy = defaults.on_disconnect if text is None else text
    if policy == "detach":
        return None
    if policy == "cancel":
        return 0.0
    # No upper limit: no request outlives its own time-out, however long its grace.
    grace_s = _seconds(policy.removeprefix("grace=")) if policy.startswith("grace=") else None
    if grace_s is None:
        return Problem(
            "bad_request",
            f"{ON_DISCONNECT_HEADER} must be cancel, detach or grace=<seconds>",
            ON_DISCONNECT_HEADER,
        )
    return grace_s


def _seconds(text: str) -> float | None:
    return float(text) if _SECONDS.fullmatch(text) else None
