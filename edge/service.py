"""The edge: admits requests, answers them, and knows which answers are open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from starlette.responses import Response

from edge import ends
from edge.access.bounds import bounds_of
from edge.access.classes import Classes
from edge.access.identity import Access
from edge.admission import Admitted, Arrival, admit
from edge.answers import Submit
from edge.batches.service import Batches
from edge.call import Call, Caller
from edge.closer import Closer
from edge.counts.leftover import Leftovers
from edge.counts.limits import StreamsLimit
from edge.counts.limits import limits as count_limits
from edge.counts.service import SharedCounts
from edge.desk import Desk, refuse
from edge.dialect import Asked, Dialect
from edge.errors import LOST, Problem
from edge.forecast.door import Door, DoorLimits
from edge.forecast.doorkeeper import Doorkeeper
from edge.gate import Entering, Gate, Permit, Settled
from edge.images import Images, images_of
from edge.images_walk import Remote
from edge.lineages import Lineages
from edge.lookup import Found, Lookup
from edge.manner import AS_EVER, Manner
from edge.position import position_asked
from edge.publisher import Publisher
from edge.rates.limit import Rates
from edge.reader import LogSources
from edge.registry import Registry
from edge.requests_api import RequestsApi
from edge.responses.quota import ResponsesQuota
from edge.waiting_room import WaitingRoom
from edge.wishes import WishDefaults, Wishes, wishes_of
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.logs import get_logger
from infra.output_log import OutputLog
from infra.settings import Settings
from schemas import subjects
from schemas.dispatch import WORK_OVERHEAD_BYTES, EdgeBeat, decode_leader
from schemas.ids import RequestId, fingerprint, request_id
from schemas.requests import View

_log = get_logger("edge")


class Edge:
    """`name` is this process's id; `fail` ends the process. `requests` finds requests by their rid, `lineages` by their
    idempotency key; `room` is where all wait for a broker that is away. `images`: None for what the settings say."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        *,
        name: str,
        fail: Callable[[Exception], None],
        images: Images | None = None,
    ) -> None:
        js = JetStream(bus, timeout_s=settings.publish_timeout_s)
        log = OutputLog(js)
        sources = LogSources(bus, log, fail)
        self.bus = bus
        self.name = name
        self.registry = Registry(model_seen_s=settings.model_seen_s, cold_start=settings.cold_start)
        self.started = int(time.time())
        self.now = asyncio.get_running_loop().time
        self._on_ready: Callable[[], None] = lambda: None
        self._heard = asyncio.Event()
        self._term = 0
        self._draining = False
        self._request_bytes_max = int(settings.request_bytes_max)
        self._queue_timeout_s = settings.queue_timeout_s
        self._wish_defaults = WishDefaults(
            settings.on_disconnect, settings.idempotency_grace_s, settings.request_timeout_max_s
        )
        lookup = Lookup(js, log)
        room = WaitingRoom(bus, places=settings.edge_pending_max)
        self.lineages = Lineages(js, lookup, room, timeout_s=settings.publish_timeout_s)
        self._publisher = Publisher(js, lookup, room, timeout_s=settings.publish_timeout_s)
        self.js = js
        self.room = room
        self.responses_quota = ResponsesQuota(settings, bus)
        self._images = images or images_of(settings)
        self.access = Access(settings)
        self.bounds = bounds_of(settings)
        self.cors_origins = settings.cors_origins
        limits = DoorLimits(settings.queue_max, settings.queue_timeout_s, settings.edge_interval_s)
        self._door = Door(name, limits)
        self._doorkeeper = Doorkeeper(self._door, self.now)
        self._counts = SharedCounts(settings, bus, name, fail)
        self._leftovers = Leftovers(bus, lookup, fail)
        self._streams = StreamsLimit(self._counts)
        counted = count_limits(settings, self._counts, self._leftovers, self.registry)
        self._gate = Gate([Classes(), Rates(bus), self._doorkeeper, self._streams, *counted])
        self._closer = Closer(bus, js, log)
        self._desk = Desk(settings, bus, name, sources, self._closer)
        self._desk.audience.on_beat = self._on_beat
        self.requests = RequestsApi(settings, js, lookup, sources, self._closer, self.registry, self._desk)
        self.batches = Batches(
            settings,
            js,
            generate=self.generate,
            cancel=self.requests.cancel,
            absent=self.access.absent,
            name=name,
            fail=fail,
        )

    def start(self) -> None:
        """Begins to listen to the leader, to other edges and to the state of the connection."""
        self.bus.subscribe(subjects.LEADER, self._on_leader)
        self.bus.on_state(self._on_state)
        self._desk.audience.start()

    @property
    def body_bytes_max(self) -> int:
        """Largest body taken: the setting, or what the connected broker can carry to a worker."""
        return min(self._request_bytes_max, self.bus.max_payload - WORK_OVERHEAD_BYTES)

    @property
    def ready(self) -> bool:
        """Whether a request that came now could be run."""
        return self.bus.connected and self.registry.has_live_worker() and not self._draining

    async def generate(
        self, dialect: Dialect, call: Call, asked: Asked | None = None, manner: Manner = AS_EVER
    ) -> Response:
        """The response to a generation: it publishes the request when it is served, or goes on with the one that its
        idempotency key stands for. `asked`: what the call's body was read as, if its dialect could not by itself."""
        new_rid = request_id(os.urandom(16))
        known_as = asked or dialect.read(call.body)
        if isinstance(known_as, Problem):
            return refuse(known_as, new_rid, call.errors)
        remotes = self._images.check(known_as.body)
        if isinstance(remotes, Problem):
            return refuse(remotes, new_rid, call.errors)
        wishes = wishes_of(call.headers, self._wish_defaults)
        if isinstance(wishes, Problem):
            return refuse(wishes, new_rid, call.errors)
        refusal = self._desk.refusal()
        if refusal is not None:
            return refuse(refusal, new_rid, call.errors)
        arrival = Arrival(
            new_rid,
            call.caller.tenant,
            known_as.raw,
            _fingerprint(dialect, call.body),
            call.headers,
            dialect.name,
            int(time.time()),
        )
        if wishes.key is not None:
            known = await self._known(arrival, call, wishes.key, wishes.grace_s, known_as, manner)
            if isinstance(known, Response):
                return known
            arrival = replace(arrival, rid=known)
        return await self._begin(arrival, call, known_as, wishes, remotes, manner)

    async def _begin(
        self,
        arrival: Arrival,
        call: Call,
        asked: Asked,
        wishes: Wishes,
        remotes: Sequence[Remote],
        manner: Manner,
    ) -> Response:
        """The response to a request that is new, as far as is known."""
        admitted = admit(
            arrival,
            asked.body,
            wishes,
            self.registry,
            edge=self.name,
            queue_timeout_s=self._queue_timeout_s,
            now=self.now(),
        )
        if isinstance(admitted, Problem):
            return refuse(admitted, arrival.rid, call.errors)
        # Nothing is fetched for who is not let in.
        permit = await self._gate.enter(Entering(call.caller, arrival, admitted, call.headers))
        if isinstance(permit, Problem):
            known = self._doorkeeper.refused(permit, admitted, call.headers)
            return refuse(known, arrival.rid, call.errors)
        try:
            raw = await self._images.inline(arrival.raw, remotes, self.body_bytes_max)
        except BaseException:
            permit.settle(Settled("refused"))
            raise
        if isinstance(raw, Problem):
            permit.settle(Settled("refused"))
            return refuse(raw, arrival.rid, call.errors)
        prospect = self._doorkeeper.let_in(admitted, call.headers)
        permit.settles.append(prospect.settle)
        view = admitted.meta.view
        assert view is not None, "an edge says how the output is to be shown"
        submit: Submit = partial(
            self._submit, replace(arrival, raw=raw), admitted, is_keyed=wishes.key is not None
        )
        if manner.around is not None:
            submit = partial(manner.around, arrival, view, submit)
        return self._desk.open(
            arrival.tenant,
            arrival.rid,
            view,
            meta=admitted.meta,
            grace_s=wishes.grace_s,
            submit=submit,
            account=admitted.card.name,
            client_id=arrival.headers.get("x-request-id", ""),
            permit=permit,
            prospect=prospect,
            manner=manner,
        )

    async def _known(
        self,
        arrival: Arrival,
        call: Call,
        key: str,
        grace_s: float | None,
        asked: Asked,
        manner: Manner,
    ) -> Response | RequestId:
        """The response if the key stands for a request that is there, else the rid it gives to a new one. Only the
        former goes on where the client was: a new run is another text."""
        try:
            resolved = await self.lineages.resolve(arrival.tenant, key, arrival.fingerprint)
        except ValueError:
            return refuse(LOST, arrival.rid, call.errors)
        if isinstance(resolved, Problem):
            return refuse(resolved, arrival.rid, call.errors)
        if resolved.found is None:
            return resolved.rid
        seen = position_asked(arrival.headers, {})
        if isinstance(seen, Problem):
            return refuse(seen, arrival.rid, call.errors)
        permit = await self.open_answer(call.caller)
        if isinstance(permit, Problem):
            return refuse(permit, arrival.rid, call.errors)
        return self._desk.open(
            arrival.tenant,
            resolved.rid,
            resolved.found.view or View(arrival.dialect, stream=asked.body.streams),
            meta=resolved.found.meta,
            grace_s=grace_s,
            shared=resolved.found.end is None,
            seen=seen,
            client_id=arrival.headers.get("x-request-id", ""),
            permit=permit,
            manner=manner,
        )

    async def open_answer(self, caller: Caller) -> Permit | Problem:
        """Counts in an answer to a request that is there already; that of a new one passes the gate."""
        said = await self._streams.open(caller)
        return said if isinstance(said, Problem) else Permit([*said.headers], [said.settle])

    async def first_word(self, timeout_s: float) -> None:
        """Returns once the leader was heard and models are known, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()

    def when_ready(self, tell: Callable[[], None]) -> None:
        """Calls `tell` as soon as a request could be run, and again at any such moment later."""
        self._on_ready = tell
        if self.ready:
            tell()

    def drain(self) -> None:
        """This process stops: it is not ready any more. What still comes on open connections is answered, and whoever
        reads has time to come back elsewhere."""
        self._draining = True
        self._desk.audience.drain()

    def cut_off(self) -> None:
        """Sends every reader away, to go on at another edge, and takes no more: this process has no time left."""
        self._desk.closed = True
        for answer in self._desk.audience.answers:
            answer.send_away()

    async def close(self, timeout_s: float) -> None:
        """Waits for what still runs in the background, and says good-bye."""
        await self._leftovers.close()
        await asyncio.gather(self._closer.drain(timeout_s), self._counts.close(timeout_s))
        self._desk.audience.close()
        self._images.close()

    async def _submit(self, arrival: Arrival, admitted: Admitted, *, is_keyed: bool) -> Problem | View | None:
        said = await self._publisher.publish(arrival, admitted)
        if isinstance(said, Found):
            # Without a key it can only be this one, from an earlier try.
            return said.view if is_keyed else None
        if said is not None and said.reason == "outcome_unknown" and not is_keyed:
            self._closer.close_soon(arrival.tenant, arrival.rid, ends.NOT_CONFIRMED)
        return said

    def _on_beat(self, beat: EdgeBeat) -> None:
        self._door.edge_heard(beat, self.now())
        self._counts.heard(beat.edge)

    def _on_leader(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            leader = decode_leader(payload)
        except ValueError as error:
            _log.warning("not a leader's heartbeat", error=str(error))
            return
        self.registry.heard(leader, self.now())
        self._door.leader_heard(leader, self.now())
        self._heard.set()
        if leader.term > self._term:
            self._term = leader.term
            self._desk.audience.tell()
        if self.ready:
            self._on_ready()

    def _on_state(self, connected: bool) -> None:
        if connected:
            self._desk.audience.tell()
            for answer in self._desk.audience.answers:
                answer.reconnected()


def _fingerprint(dialect: Dialect, body: bytes) -> str:
    """Tells two requests under one key apart. Bodies that engines speak are no two endpoints' at once; of another one,
    the same bytes may mean two things, and whoever sends them to both gets no answer in the shape of the other."""
    return fingerprint(b"%b\n%b" % (dialect.name.encode(), body) if dialect.translates else body)
