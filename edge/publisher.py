"""Gets a request stored in the queue exactly once, or finds out why not."""

from __future__ import annotations

import asyncio

from edge.admission import Admitted, Arrival
from edge.errors import LOST, Problem
from edge.hops import Hops
from edge.lookup import Found, Lookup
from edge.publishing import Done, Hold, Look, Publishing, Send, Step
from edge.waiting_room import WaitingRoom, no_place
from infra import wire
from infra.jetstream import JetStream
from infra.logs import get_logger
from schemas.errors import BrokerAway, BrokerRefused

_log = get_logger("publisher")


class Publisher:
    """`timeout_s` bounds all tries of one request, `room` how many may wait for a broker that is away. `hops`: None
    where the broker is not to tell of messages."""

    def __init__(
        self,
        js: JetStream,
        lookup: Lookup,
        room: WaitingRoom,
        *,
        timeout_s: float,
        hops: Hops | None = None,
    ) -> None:
        self._js = js
        self._lookup = lookup
        self._room = room
        self._timeout_s = timeout_s
        self._hops = hops

    async def publish(self, arrival: Arrival, admitted: Admitted) -> Problem | Found | None:
        """None: it is stored, by this call. Found: it was there already (by an earlier try, or by whoever published the
        same rid and body before), and is shown as that says.

        `outcome_unknown`: it may be stored; whoever need not keep it for a retry with the same key cancels it. Any
        other problem: it is not, and will not be.
        """
        if self._room.is_full:
            return no_place()
        now = asyncio.get_running_loop().time
        way = Publishing(arrival.rid, arrival.fingerprint, give_up_at=now() + self._timeout_s)
        asked = {} if self._hops is None else self._hops.asked(admitted.meta)
        headers = wire.encode_headers(admitted.headers | asked)
        found: Found | None = None
        with self._room.stay() as stay:
            step = way.proceed(now(), connected=self._js.bus.connected)
            while not isinstance(step, Done):
                match step:
                    case Send(timeout_s):
                        step = await self._send(way, arrival, admitted.subject, headers, timeout_s)
                    case Look():
                        step, found = await self._look(way, arrival)
                    case Hold(wait_s):
                        has_place = await stay.wait(wait_s)
                        connected = self._js.bus.connected
                        step = way.proceed(now(), connected=connected) if has_place else way.give_up()
        return step.problem or found

    async def _send(
        self, way: Publishing, arrival: Arrival, subject: str, headers: bytes, timeout_s: float
    ) -> Step:
        try:
            ack = await self._js.publish(subject, arrival.raw, headers=headers, timeout_s=timeout_s)
        except BrokerAway:
            return way.unanswered()
        step = way.acked(ack)
        if isinstance(step, Done) and step.problem is not None:
            _log.error(
                "the broker refused a request",
                tenant=arrival.tenant,
                rid=arrival.rid,
                error=ack.description,
                code=ack.err_code,
            )
        return step

    async def _look(self, way: Publishing, arrival: Arrival) -> tuple[Step, Found | None]:
        try:
            found = await self._lookup.find(arrival.tenant, arrival.rid)
        except (BrokerAway, BrokerRefused) as error:
            if isinstance(error, BrokerRefused):
                _log.warning("not looked up", tenant=arrival.tenant, rid=arrival.rid, error=str(error))
            return way.not_looked(), None
        except ValueError:
            return Done(LOST), None
        return way.found(None if found is None else found.fingerprint), found
