"""What the two streams say about a request: whether it exists, how it stands, and how its client wants it shown."""

from __future__ import annotations

from dataclasses import dataclass

from infra import wire
from infra.jetstream import JetStream, Stored
from infra.log_traces import know_trace
from infra.output_log import OutputLog
from schemas import subjects
from schemas.ids import ModelKey, RequestId, TenantKey, fingerprint, model_key
from schemas.log import Entry
from schemas.output import End, Lease
from schemas.requests import FINGERPRINT, TRACEPARENT, RequestMeta, View, parse_meta
from schemas.streams import REQUESTS


@dataclass(frozen=True)
class Found:
    """A request that exists: its message is in REQUESTS (`queued`: waiting or running), or its log has a ctl record.

    `ctl` is the newest one. `meta` and `model` come from the message. `view` comes from it or from the newest lease; it
    is None for a direct publisher's request, and for one that ended before anybody took it. So is `model`, once the
    message has gone. `fingerprint` is that of the body, empty if nothing tells it any more.
    `traceparent` is where the request stands in its trace: that of its message, or else of its newest attempt.
    """

    view: View | None
    meta: RequestMeta | None
    fingerprint: str
    model: ModelKey | None
    queued: bool
    ctl: Entry | None
    traceparent: str = ""

    @property
    def end(self) -> End | None:
        """How the request ended, if it has."""
        return self.ctl.record if self.ctl is not None and isinstance(self.ctl.record, End) else None


class Lookup:
    """`find` is one round trip for each of the two streams, and one more for a request that is over."""

    def __init__(self, js: JetStream, log: OutputLog) -> None:
        self._js = js
        self._log = log

    async def find(self, tenant: TenantKey, rid: RequestId) -> Found | None:
        """None: there is no such request (any more). Both streams' leaders are asked, so the answer can be trusted.

        Raises BrokerAway, and ValueError where the log holds what is no record.
        """
        # In this order: END is stored before the message goes, so a request that ends meanwhile is still found.
        message = await self._js.last(REQUESTS, subjects.request_of_any_model(tenant, rid))
        ctl = await self._log.last_ctl(tenant, rid)
        if message is not None:
            return _of_message(message, ctl)
        if ctl is not None:
            return _of_log(await self._newest_lease(tenant, rid, ctl), ctl)
        return None

    async def _newest_lease(self, tenant: TenantKey, rid: RequestId, last: Entry) -> Lease | None:
        """None: the request ended before anybody took it."""
        if isinstance(last.record, Lease):
            return last.record
        chain = await self._log.ctl_chain(tenant, rid, upto_seq=last.seq)
        leases = [entry.record for entry in chain if isinstance(entry.record, Lease)]
        return leases[-1] if leases else None


def _of_message(message: Stored, ctl: Entry | None) -> Found:
    headers = wire.parse_headers(message.headers)
    meta = parse_meta(headers)
    subject = subjects.parse_request(message.subject)
    # The log has the last word on what runs. A direct publisher may leave the header out; its body is the client's own.
    told = _told(ctl) if ctl is not None else ""
    if subject is not None and isinstance(meta, RequestMeta):
        know_trace(subject.tenant, subject.rid, meta.traceparent)
    return Found(
        view=meta.view if isinstance(meta, RequestMeta) else None,
        meta=meta if isinstance(meta, RequestMeta) else None,
        fingerprint=told or headers.get(FINGERPRINT) or fingerprint(message.payload),
        model=subject.model if subject is not None else None,
        queued=True,
        ctl=ctl,
        traceparent=headers.get(TRACEPARENT, ""),
    )


def _of_log(lease: Lease | None, ctl: Entry) -> Found:
    view = lease.view if lease is not None else None
    return Found(
        view=view,
        meta=None,
        fingerprint=(lease.fingerprint if lease is not None else "") or _told(ctl),
        model=model_key(view.model) if view is not None and view.model else None,
        queued=False,
        ctl=ctl,
        traceparent=lease.trace if lease is not None else "",
    )


def _told(ctl: Entry) -> str:
    return ctl.record.fingerprint if isinstance(ctl.record, Lease | End) else ""
