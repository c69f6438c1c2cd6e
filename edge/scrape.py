"""What an edge answers to `/metrics`: for itself, or for all edges of its address."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import Callable

from prometheus_client.metrics_core import Metric

from edge import metrics
from edge.accounts import RECENT
from edge.registry import Registry
from infra.bus import Bus
from infra.logs import get_logger
from infra.metrics.page import Page, labelled, merged, pack, show, unpack
from infra.metrics.tables import MODELS
from infra.micro import Endpoint, Micro
from infra.settings import Settings
from schemas import subjects

SIBLINGS_WAIT_S = 0.25
"""For the other edges; one that has died or hangs is left out of the page, and costs it no more than this."""

ANSWERS_MAX = 16
"""To siblings at the same time; who asks more often gets a page without this edge."""

_log = get_logger("scrape")


class Scrape:
    """Edges that share an address share its port, and whoever asks there reaches any one of them: it asks the others.
    `page` is its own alone."""

    def __init__(
        self, settings: Settings, bus: Bus, name: str, registry: Registry, fail: Callable[[Exception], None]
    ) -> None:
        self._bus = bus
        self._name = name
        self._registry = registry
        self._fail = fail
        self._siblings = max(0, settings.edges - 1)
        self._subject = subjects.edge_metrics(_address_key(settings.host, settings.port))
        self._endpoint = Endpoint("metrics", self._subject)
        self._micro = Micro(bus, "edge", name, self._endpoint)
        self._answers: dict[asyncio.Task[None], None] = {}
        self.page = Page("edge", metrics.TABLE, lambda: bus.connected, refresh=self._refresh)

    def start(self) -> None:
        """Answers its siblings and the tools of NATS."""
        self._micro.start()
        self._bus.subscribe(self._subject, self._on_asked)

    def close(self) -> None:
        """Answers no more."""
        self._micro.close()
        for task in self._answers:
            task.cancel()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The page of all edges of this address, and its content type."""
        own = await self.page.families()
        if not self._siblings:
            return await show(own, accept)
        others = await self._ask_siblings()
        pages = [labelled(own, {"edge": self._name})]
        pages += [labelled(families, {"edge": edge}) for edge, families in sorted(others.items())]
        return await show(merged(pages), accept)

    async def _ask_siblings(self) -> dict[str, list[Metric]]:
        """What the others say, by their names; all of them, or as many as answer in time."""
        found: dict[str, list[Metric]] = {}
        complete = asyncio.Event()

        def on_answer(_subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
            edge, _, families = payload.partition(b"\n")
            try:
                found[edge.decode()] = unpack(families)
            except ValueError as error:
                _log.warning("an edge's metrics that cannot be read", error=str(error))
            if len(found) == self._siblings:
                complete.set()

        inbox = self._bus.inbox()
        subscription = self._bus.subscribe(inbox, on_answer)
        try:
            if self._bus.publish(self._subject, self._name.encode(), reply=inbox):
                async with asyncio.timeout(SIBLINGS_WAIT_S):
                    await complete.wait()
        except TimeoutError:
            _log.debug("edges left out", missing=self._siblings - len(found))
        finally:
            subscription.close()
        return found

    def _on_asked(self, _subject: str, reply: str, _headers: bytes, payload: bytes) -> None:
        if reply and payload != self._name.encode() and len(self._answers) < ANSWERS_MAX:
            task = asyncio.create_task(self._answer(reply))
            self._answers[task] = None
            task.add_done_callback(self._on_answered)

    async def _answer(self, reply: str) -> None:
        begun = time.monotonic()
        answer = b"%b\n%b" % (self._name.encode(), pack(await self.page.families()))
        error = ""
        if len(answer) <= self._bus.max_payload:
            self._bus.publish(reply, answer)
        else:
            # The broker would end the connection, and with it every stream of this edge.
            error = "a page that is larger than the broker's max_payload"
            _log.warning("this edge is left out of its siblings' metrics", error=error, bytes=len(answer))
        self._endpoint.count(time.monotonic() - begun, error)

    def _on_answered(self, task: asyncio.Task[None]) -> None:
        del self._answers[task]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _refresh(self) -> None:
        """Sets what is known, not counted."""
        stats = self._registry.queue_stats()
        metrics.QUEUE_DEPTH.set(stats.pending_requests)
        metrics.RUNNING_REQUESTS.set(stats.processing_requests)
        metrics.WORKERS.labels("idle").set(stats.idle_workers)
        metrics.WORKERS.labels("busy").set(stats.busy_workers)
        # A model that is forgotten is told of no more.
        metrics.SLOTS.clear()
        metrics.FREE_SLOTS.clear()
        for model in self._registry.models():
            label = MODELS.of(model.id)
            metrics.SLOTS.labels(label).inc(model.slots)
            metrics.FREE_SLOTS.labels(label).inc(model.free)
        took = RECENT.total_s()
        for quantile, seconds in (("0.5", took.p50), ("0.95", took.p95), ("0.99", took.p99)):
            metrics.REQUEST_DURATION_QUANTILE.labels(quantile).set(seconds)


def _address_key(host: str, port: int) -> str:
    """Of this machine: another one's edges may have the same host and port in their settings."""
    address = f"{socket.gethostname()} {host} {port}"
    return hashlib.sha256(address.encode()).hexdigest()[:16]
