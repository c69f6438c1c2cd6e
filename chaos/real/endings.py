"""What comes to its end although whoever waits for it is cancelled: half of a mount is one that nobody takes away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Its result. Cancelled, it waits all the same, and is cancelled then."""
    task = asyncio.create_task(work)
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError from task.exception()
    return task.result()


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Its result. The first SIGINT or SIGTERM cancels it; those after it do not keep it from cleaning up."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(work)

    def interrupt() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return await task
