"""A generation from its call to its answer: a new request is let in and published, a known one is gone on with."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from starlette.responses import Response

from edge import ends
from edge.admission import Admitted, Arrival, admit
from edge.answers import Submit
from edge.call import Call
from edge.closer import Closer
from edge.desk import Desk, refuse
from edge.dialect import Asked, Dialect
from edge.entrance import Entrance
from edge.errors import LOST, Problem
from edge.gate import Entering, Settled
from edge.images import Images
from edge.images_walk import Remote
from edge.lineages import Lineages
from edge.lookup import Found
from edge.manner import AS_EVER, Manner
from edge.position import position_asked
from edge.publisher import Publisher
from edge.rates.counted import Knock
from edge.registry import Registry
from edge.tracing import CallTrace
from edge.wishes import WishDefaults, Wishes, wishes_of
from infra.log_traces import know_trace
from infra.logs import get_logger
from infra.settings import Settings
from schemas.ids import RequestId, fingerprint, request_id
from schemas.requests import View
from schemas.trace import context_of

_log = get_logger("edge")


class Generation:
    """Of one edge, `name`. `body_bytes_max`: what a worker can be sent now."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        registry: Registry,
        images: Images,
        lineages: Lineages,
        entrance: Entrance,
        publisher: Publisher,
        closer: Closer,
        desk: Desk,
        body_bytes_max: Callable[[], int],
    ) -> None:
        self._name = name
        self._registry = registry
        self._images = images
        self._lineages = lineages
        self._entrance = entrance
        self._publisher = publisher
        self._closer = closer
        self._desk = desk
        self._body_bytes_max = body_bytes_max
        self._now = asyncio.get_running_loop().time
        self._queue_timeout_s = settings.queue_timeout_s
        self._trace_ratio = settings.trace_sample_ratio
        self._wish_defaults = WishDefaults(
            settings.on_disconnect, settings.idempotency_grace_s, settings.request_timeout_max_s
        )

    async def generate(
        self, dialect: Dialect, call: Call, asked: Asked | None = None, manner: Manner = AS_EVER
    ) -> Response:
        """The response to a generation: it publishes the request when it is served, or goes on with the one that its
        idempotency key stands for. `asked`: what the call's body was read as, if its dialect could not by itself."""
        new_rid = request_id(os.urandom(16))
        if call.trace is not None:
            call.trace.named(call.caller.tenant, new_rid)
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
        if wishes.key is None:
            return await self._begin(arrival, call, known_as, wishes, remotes, manner)
        # What a key stands for takes many reads.
        knock = await self._entrance.knock(call.caller)
        if isinstance(knock, Problem):
            return refuse(knock, new_rid, call.errors)
        try:
            known = await self._known(arrival, call, wishes.key, wishes.grace_s, known_as, manner)
            if isinstance(known, Response):
                return known
            arrival = replace(arrival, rid=known)
            return await self._begin(arrival, call, known_as, wishes, remotes, manner, knock)
        finally:
            knock.over()

    async def _begin(
        self,
        arrival: Arrival,
        call: Call,
        asked: Asked,
        wishes: Wishes,
        remotes: Sequence[Remote],
        manner: Manner,
        knock: Knock | None = None,
    ) -> Response:
        """The response to a request that is new, as far as is known."""
        trace = call.trace
        if trace is not None:
            trace.named(arrival.tenant, arrival.rid)
            arrival = replace(arrival, traceparent=trace.header())
        admitted = admit(
            arrival,
            asked.body,
            wishes,
            self._registry,
            edge=self._name,
            queue_timeout_s=self._queue_timeout_s,
            now=self._now(),
        )
        if isinstance(admitted, Problem):
            return refuse(admitted, arrival.rid, call.errors)
        know_trace(arrival.tenant, arrival.rid, admitted.meta.traceparent)
        # Nothing is fetched for who is not let in.
        permit = await self._entrance.enter(Entering(call.caller, arrival, admitted, call.headers, knock))
        if isinstance(permit, Problem):
            return refuse(permit, arrival.rid, call.errors)
        with ExitStack() as unless_opened:
            # However it ends: whoever asks may be cancelled while an image is fetched.
            unless_opened.callback(permit.settle, Settled("refused"))
            raw = await self._images.inline(
                arrival.raw,
                remotes,
                self._body_bytes_max(),
                _log.bind(tenant=arrival.tenant, rid=arrival.rid),
            )
            if isinstance(raw, Problem):
                return refuse(raw, arrival.rid, call.errors)
            unless_opened.pop_all()
        if trace is not None:
            trace.admitted(admitted)
        prospect = self._entrance.let_in(admitted, call.headers)
        permit.settles.append(prospect.settle)
        view = admitted.meta.view
        assert view is not None, "an edge says how the output is to be shown"
        submit: Submit = partial(
            self._submit, replace(arrival, raw=raw), admitted, trace, is_keyed=wishes.key is not None
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
            trace_id=self._trace_id(arrival),
            client_id=arrival.headers.get("x-request-id", ""),
            permit=permit,
            prospect=prospect,
            manner=manner,
            trace=trace,
        )

    def _trace_id(self, arrival: Arrival) -> str:
        """Empty: the request is not traced."""
        given = arrival.headers.get("traceparent", "")
        context = context_of(arrival.tenant, arrival.rid, given, ratio=self._trace_ratio)
        return context.trace_id if context.is_sampled else ""

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
            resolved = await self._lineages.resolve(arrival.tenant, key, arrival.fingerprint)
        except ValueError:
            return refuse(LOST, arrival.rid, call.errors)
        if isinstance(resolved, Problem):
            return refuse(resolved, arrival.rid, call.errors)
        if resolved.found is None:
            return resolved.rid
        seen = position_asked(arrival.headers, {})
        if isinstance(seen, Problem):
            return refuse(seen, arrival.rid, call.errors)
        if call.trace is not None:
            call.trace.reads(arrival.tenant, resolved.rid, resolved.found)
        permit = await self._entrance.open_answer(call.caller)
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
            trace=call.trace,
        )

    async def _submit(
        self, arrival: Arrival, admitted: Admitted, trace: CallTrace | None, *, is_keyed: bool
    ) -> Problem | View | None:
        if trace is not None:
            trace.publishing(arrival, admitted)
        said = await self._publisher.publish(arrival, admitted)
        if trace is not None:
            trace.published(arrival, said)
        if isinstance(said, Found):
            # Without a key it can only be this one, from an earlier try.
            return said.view if is_keyed else None
        if said is not None and said.reason == "outcome_unknown" and not is_keyed:
            self._closer.close_soon(arrival.tenant, arrival.rid, ends.NOT_CONFIRMED)
        return said


def _fingerprint(dialect: Dialect, body: bytes) -> str:
    """Tells two requests under one key apart. Bodies that engines speak are no two endpoints' at once; of another one,
    the same bytes may mean two things, and whoever sends them to both gets no answer in the shape of the other."""
    return fingerprint(b"%b\n%b" % (dialect.name.encode(), body) if dialect.translates else body)
