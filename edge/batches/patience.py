"""Tries again while the broker is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from infra.logs import get_logger
from schemas.errors import BrokerAway, BrokerRefused

T = TypeVar("T")

RETRY_WAIT_S = 0.25
REFUSED_WAIT_S = 5.0
"""Room comes back when files expire or are deleted, which takes longer than a broker's restart."""

_log = get_logger("batches")


async def patiently(call: Callable[[], Awaitable[T]], *, timeout_s: float) -> T:
    """What `call` returns once the broker answers, tried for `timeout_s`; then what it raises. It may run more than
    once."""
    now = asyncio.get_running_loop().time
    deadline = now() + timeout_s
    while True:
        try:
            return await call()
        except BrokerAway:
            if now() > deadline:
                raise
        await asyncio.sleep(RETRY_WAIT_S)


async def stubbornly(call: Callable[[], Awaitable[T]]) -> T:
    """`patiently`, without an end, and also while the broker refuses, as one whose streams are full does: for what has
    been promised already."""
    while True:
        try:
            return await patiently(call, timeout_s=inf)
        except BrokerRefused as error:
            _log.warning("the broker refuses; tried again", error=str(error), wait_s=REFUSED_WAIT_S)
        await asyncio.sleep(REFUSED_WAIT_S)
