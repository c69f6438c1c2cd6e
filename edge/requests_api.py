"""Requests by their rid: read on at any edge, looked at, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime

import msgspec
from starlette.responses import Response

from edge import ends
from edge.closer import Closer
from edge.desk import Desk, refuse
from edge.errors import AWAY, LOST, UNCERTAIN, Problem
from edge.gate import Permit, Settled
from edge.lookup import Found, Lookup
from edge.manner import AS_EVER, Manner
from edge.pages import Page, page_of
from edge.position import Position, position_asked
from edge.problem_response import ProblemResponse
from edge.reader import LogSources
from edge.registry import Registry
from edge.tracing import CallTrace
from edge.wishes import ON_DISCONNECT_HEADER, WishDefaults, wishes_of
from infra.jetstream import JetStream
from infra.settings import Settings
from infra.wire import header_value
from schemas import subjects
from schemas.errors import BrokerAway, StreamFull
from schemas.ids import RequestId, TenantKey, is_request_id
from schemas.log import Entry
from schemas.requests import View
from schemas.streams import OUTPUT, REQUESTS

READ_TRIES_MAX = 20
READ_RETRY_WAIT_S = 0.05
"""A follower lags by milliseconds; one that is behind for a second is on its way out."""

CountIn = Callable[[], Awaitable[Permit | Problem]]


class RequestsApi:
    """The tenant is a part of every look-up: a rid of another one is a rid that does not exist."""

    def __init__(
        self,
        settings: Settings,
        js: JetStream,
        lookup: Lookup,
        sources: LogSources,
        closer: Closer,
        registry: Registry,
        desk: Desk,
    ) -> None:
        self._settings = settings
        self._js = js
        self._lookup = lookup
        self._sources = sources
        self._closer = closer
        self._registry = registry
        self._desk = desk
        self._now = asyncio.get_running_loop().time

    async def stream(
        self,
        tenant: TenantKey,
        rid: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        count_in: CountIn | None = None,
        trace: CallTrace | None = None,
    ) -> Response:
        """The output as an event stream, after what the client says it has seen, also of a request that was posted
        without `stream`. `count_in` is asked last: what it has counted is an answer that opens."""
        seen = position_asked(headers, query)
        if isinstance(seen, Problem):
            return ProblemResponse(seen)
        found = self._desk.refusal() or await self.find(tenant, rid)
        if isinstance(found, Problem):
            return ProblemResponse(found)
        permit = Permit() if count_in is None else await count_in()
        if isinstance(permit, Problem):
            return refuse(permit)
        return self.open(tenant, RequestId(rid), found, headers, seen, permit=permit, trace=trace)

    def open(
        self,
        tenant: TenantKey,
        rid: RequestId,
        found: Found,
        headers: Mapping[str, str],
        seen: Position | None,
        manner: Manner = AS_EVER,
        permit: Permit | None = None,
        trace: CallTrace | None = None,
    ) -> Response:
        """The event stream of a request that was found. `permit` is settled when it ends, or at once if there is
        none."""
        permit = permit or Permit()
        if trace is not None:
            trace.reads(tenant, rid, found)
        grace_s = self._grace(headers, found)
        if isinstance(grace_s, Problem):
            permit.settle(Settled("refused"))
            return ProblemResponse(grace_s)
        return self._desk.open(
            tenant,
            rid,
            found.view or View(),
            meta=found.meta,
            grace_s=grace_s,
            shared=found.end is None,
            seen=seen,
            stream=True,
            permit=permit,
            manner=manner,
            trace=trace,
        )

    async def show(self, tenant: TenantKey, rid: str) -> Response:
        """How it stands."""
        page = await self.page(tenant, rid)
        return ProblemResponse(page) if isinstance(page, Problem) else _shown(page)

    async def page(self, tenant: TenantKey, rid: str) -> Page | Problem:
        """How it stands, for who shows it in another way."""
        found = await self.find(tenant, rid)
        return found if isinstance(found, Problem) else await self._page(tenant, RequestId(rid), found)

    async def cancel(self, tenant: TenantKey, rid: str) -> Response:
        """Ends it, unless it has ended; then how it stands. Nothing is stored of it after the answer."""
        found = await self.find(tenant, rid)
        if not isinstance(found, Problem):
            found = await self.end(tenant, RequestId(rid), found)
        if isinstance(found, Problem):
            return ProblemResponse(found)
        page = await self._page(tenant, RequestId(rid), found)
        return ProblemResponse(page, rid) if isinstance(page, Problem) else _shown(page)

    async def end(self, tenant: TenantKey, rid: RequestId, found: Found) -> Found | Problem:
        """Cancels a request that was found, unless it has ended; it has then."""
        if found.end is not None:
            return found
        try:
            return replace(found, ctl=await self._closer.close(tenant, rid, ends.CANCELLED))
        except BrokerAway:
            return AWAY
        except StreamFull:
            return Problem("output_full", "there is no room for the end of the request now")

    def _grace(self, headers: Mapping[str, str], found: Found) -> float | Problem | None:
        """What a reader's leaving means: what it says itself, else what the request says, so that a reader that only
        looks on makes nothing worse. Once the message has gone there is nothing left to decide."""
        if headers.get(ON_DISCONNECT_HEADER) is None and found.meta is not None:
            return found.meta.grace_s
        defaults = WishDefaults(
            on_disconnect=f"grace={self._settings.idempotency_grace_s}",
            idempotency_grace_s=self._settings.idempotency_grace_s,
            request_timeout_max_s=self._settings.request_timeout_max_s,
        )
        wishes = wishes_of(headers, defaults)
        return wishes if isinstance(wishes, Problem) else wishes.grace_s

    async def find(self, tenant: TenantKey, rid: str) -> Found | Problem:
        """A request that exists; a problem if there is none, or if nobody can tell now: a broker that is cut off from
        its cluster goes on answering, and knows nothing of what the others took since. No leader is heard there."""
        missing = Problem("not_found", "there is no such request; its result may have expired")
        if not is_request_id(rid):
            return missing
        try:
            found = await self._lookup.find(tenant, RequestId(rid))
            if found is None:
                return missing if self._registry.hears_leader(self._now()) else UNCERTAIN
            view = found.view or await self._guess(tenant, RequestId(rid), found)
            return replace(found, view=view)
        except BrokerAway:
            return AWAY
        except ValueError:
            return LOST

    async def _guess(self, tenant: TenantKey, rid: RequestId, found: Found) -> View | None:
        """How to show a request that no edge published: as a chat of its model, begun when its log was, or else when it
        was queued. None: what would tell its model has gone."""
        if found.model is None:
            return None
        stream, subject = REQUESTS, subjects.request_of_any_model(tenant, rid)
        if found.ctl is not None:
            stream, subject = OUTPUT, subjects.output_ctl(tenant, rid)
        stored_at = await self._stored_at(stream, subject, 1)
        card = self._registry.find(found.model, self._now())
        return View(
            model=found.model if isinstance(card, Problem) else card.name,
            created=stored_at or 0,
        )

    async def ended_at(self, tenant: TenantKey, rid: RequestId, found: Found) -> int | None:
        """When a request ended, in Unix seconds by the broker's clock; None: it has not, or no replica says it yet.
        Raises BrokerAway."""
        if found.ctl is None or found.end is None:
            return None
        return await self._stored_at(OUTPUT, subjects.output_ctl(tenant, rid), found.ctl.seq)

    async def _stored_at(self, stream: str, subject: str, seq: int) -> int | None:
        """When the first message of `subject` from `seq` on was stored."""
        first = await self._js.read(stream, subject, start_seq=seq, limit=1)
        told = header_value(first[0].headers, b"Nats-Time-Stamp") if first else None
        return None if told is None else int(msgspec.convert(told.decode(), datetime).timestamp())

    async def _page(self, tenant: TenantKey, rid: RequestId, found: Found) -> Page | Problem:
        entries = await self.entries(tenant, rid, found)
        return entries if isinstance(entries, Problem) else page_of(rid, found.view, entries)

    async def entries(self, tenant: TenantKey, rid: RequestId, found: Found) -> list[Entry] | Problem:
        """The log of a request, as far as it is known to go; empty: nobody has taken the request yet."""
        try:
            return [] if found.ctl is None else await self._entries(tenant, rid, found.ctl)
        except BrokerAway:
            return AWAY
        except ValueError:
            return LOST

    async def _entries(self, tenant: TenantKey, rid: RequestId, known: Entry) -> list[Entry]:
        """The log, at least up to a record that is known to be there: any replica may answer."""
        for _ in range(READ_TRIES_MAX):
            async with self._sources.replays:
                entries = await self._sources.log.read(tenant, rid)
            if entries and entries[-1].seq >= known.seq:
                return entries
            await asyncio.sleep(READ_RETRY_WAIT_S)
        raise BrokerAway(f"no replica has record {known.seq} of {rid} yet")


def _shown(page: Page) -> Response:
    return Response(msgspec.json.encode(page), media_type="application/json")
