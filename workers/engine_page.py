"""What an engine says of itself, for the page of its worker: in the engine's own names."""

from __future__ import annotations

import asyncio
import copy
import time
from math import inf
from typing import Protocol, runtime_checkable

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from infra.logs import get_logger
from schemas.errors import PenstockError
from workers.engines.base import Engine

PATIENCE_S = 1.0
"""For the engine to say it; a scrape does not wait longer."""

KEPT_S = 1.0
"""What was said is shown again for this long: scrapes are no load."""

_OURS = ("penstock_", "process_", "python_")
"""A server's own process is not this one."""

_log = get_logger("worker")


class SaysNothing(PenstockError):
    """The engine has no metrics to tell now. Look whether it serves any."""


@runtime_checkable
class Measured(Protocol):
    """An engine that has metrics of its own."""

    async def metrics(self) -> list[Metric]:
        """Its families. Raises SaysNothing."""
        ...


class EnginePage:
    """The families of one engine, as of now or a second ago."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._families: list[Metric] = []
        self._said_at = -inf
        self._asking: asyncio.Task[list[Metric]] | None = None

    async def families(self) -> list[Metric]:
        """Empty: it tells nothing, or not in time."""
        if not isinstance(self._engine, Measured):
            return []
        if self._asking is None and time.monotonic() - self._said_at >= KEPT_S:
            self._asking = asyncio.create_task(self._ask(self._engine))
        asking = self._asking
        if asking is not None:
            # One that hangs is not asked again: each question may cost it a thread.
            done, _ = await asyncio.wait({asking}, timeout=PATIENCE_S)
            if not done:
                return []
            self._families = asking.result()
            self._said_at, self._asking = time.monotonic(), None
        return [copy.copy(family) for family in self._families]

    async def _ask(self, engine: Measured) -> list[Metric]:
        try:
            said = await engine.metrics()
        except SaysNothing as error:
            _log.debug("the engine tells no metrics", error=repr(error))
            return []
        return [family for family in said if not family.name.startswith(_OURS)]


async def read_page(text: str) -> list[Metric]:
    """The families of a page. Raises SaysNothing for what is none. In a thread: a page may have thousands of lines."""
    try:
        return await asyncio.to_thread(lambda: list(text_string_to_metric_families(text)))
    except (ValueError, KeyError, IndexError) as error:
        raise SaysNothing(f"not a page of metrics: {error!r}") from None
