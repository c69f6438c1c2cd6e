"""The edge: its parts, wired, and its life from the start to the last word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from edge.access.bounds import bounds_of
from edge.access.identity import Access
from edge.batches.service import Batches
from edge.closer import Closer
from edge.desk import Desk
from edge.entrance import Entrance
from edge.generation import Generation
from edge.hops import hops_of
from edge.images import Images, images_of
from edge.lineages import Lineages
from edge.lookup import Lookup
from edge.publisher import Publisher
from edge.reader import LogSources
from edge.readiness import Readiness
from edge.registry import Registry
from edge.requests_api import RequestsApi
from edge.responses.quota import ResponsesQuota
from edge.scrape import Scrape
from edge.tracing import Tracing
from edge.waiting_room import WaitingRoom
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from infra.settings import Settings
from infra.tracing import NoTracer, Tracer
from schemas.dispatch import WORK_OVERHEAD_BYTES


class Edge:
    """`name` is this process's id; `fail` ends the process. `requests` finds requests by their rid, `lineages` by their
    idempotency key; `generate` and `open_answer` are those of `Generation` and `Entrance`, `first_word` and
    `when_ready` those of `Readiness`; `room` is where all wait for a broker that is away. `images`: None for what the
    settings say; `tracer`: None for no traces."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        *,
        name: str,
        fail: Callable[[Exception], None],
        images: Images | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.bus = bus
        self.name = name
        self.started = int(time.time())
        self.now = asyncio.get_running_loop().time
        self.access = Access(settings)
        self.bounds = bounds_of(settings)
        self.tracing = Tracing(tracer or NoTracer(), name)
        self._hops = hops_of(settings, bus, name, tracer)
        self.cors_origins = settings.cors_origins
        self._request_bytes_max = int(settings.request_bytes_max)
        self.js = js = JetStream(bus, timeout_s=settings.publish_timeout_s)
        log = OutputLog(js)
        lookup = Lookup(js, log)
        sources = LogSources(bus, log, fail)
        self.registry = Registry(model_seen_s=settings.model_seen_s, cold_start=settings.cold_start)
        self.room = WaitingRoom(bus, places=settings.edge_pending_max)
        self.lineages = Lineages(js, lookup, self.room, timeout_s=settings.publish_timeout_s)
        self._images = images or images_of(settings)
        self._entrance = Entrance(settings, bus, name, lookup=lookup, registry=self.registry, fail=fail)
        self.open_answer = self._entrance.open_answer
        self._closer = Closer(bus, js, log)
        self._desk = Desk(settings, bus, name, sources, self._closer)
        self._desk.audience.on_beat = self._entrance.edge_heard
        self._readiness = Readiness(
            bus,
            self.registry,
            on_leader=self._entrance.leader_heard,
            on_change=self._desk.audience.tell,
        )
        self.first_word = self._readiness.first_word
        self.when_ready = self._readiness.when_ready
        self._generation = Generation(
            settings,
            name,
            registry=self.registry,
            images=self._images,
            lineages=self.lineages,
            entrance=self._entrance,
            publisher=Publisher(js, lookup, self.room, timeout_s=settings.publish_timeout_s, hops=self._hops),
            closer=self._closer,
            desk=self._desk,
            body_bytes_max=lambda: self.body_bytes_max,
        )
        self.generate = self._generation.generate
        self.requests = RequestsApi(settings, js, lookup, sources, self._closer, self.registry, self._desk)
        self.responses_quota = ResponsesQuota(settings, bus)
        self.scrape = Scrape(settings, bus, name, self.registry, fail)
        self.batches = Batches(
            settings,
            js,
            generate=self.generate,
            cancel=self.requests.cancel,
            absent=self.access.absent,
            tracing=self.tracing,
            name=name,
            fail=fail,
        )

    def start(self) -> None:
        """Begins to listen to the leader, to other edges and to the state of the connection."""
        self._readiness.start()
        self.bus.on_state(self._on_state)
        self._desk.audience.start()
        self.scrape.start()
        if self._hops is not None:
            self._hops.start()

    @property
    def body_bytes_max(self) -> int:
        """Largest body taken: the setting, or what the connected broker can carry to a worker."""
        return min(self._request_bytes_max, self.bus.max_payload - WORK_OVERHEAD_BYTES)

    @property
    def ready(self) -> bool:
        """Whether a request that came now could be run."""
        return self._readiness.ready

    def drain(self) -> None:
        """This process stops: it is not ready any more. What still comes on open connections is answered, and whoever
        reads has time to come back elsewhere."""
        self._readiness.stop()
        self._desk.audience.drain()

    def cut_off(self) -> None:
        """Sends every reader away, to go on at another edge, and takes no more: this process has no time left."""
        self._desk.closed = True
        for answer in self._desk.audience.answers:
            answer.send_away()

    async def close(self, timeout_s: float) -> None:
        """Waits for what still runs in the background, and says good-bye."""
        await self._entrance.stop_watching()
        await asyncio.gather(self._closer.drain(timeout_s), self._entrance.close(timeout_s))
        self._desk.audience.close()
        self._images.close()
        self.scrape.close()

    def _on_state(self, connected: bool) -> None:
        if connected:
            self._desk.audience.tell()
            for answer in self._desk.audience.answers:
                answer.reconnected()
