"""The shell's calls to the broker about single requests: each says how it ended with an event."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from infra.jetstream import JetStream
from infra.logs import get_logger
from infra.output_log import OutputLog
from infra.wire import parse_headers
from scheduler import events
from schemas import dispatch, streams, subjects
from schemas.errors import BrokerAway, BrokerRefused, StreamFull
from schemas.ids import RequestId, TenantKey
from schemas.log import Entry
from schemas.output import End, Lease, encode
from schemas.requests import FINGERPRINT

_log = get_logger("scheduler")

_FAILURES = (BrokerAway, BrokerRefused, ValueError)
"""No answer, a refusal, or a record that cannot be read."""


class BrokerCalls:
    """Reads and writes of output logs, and deletions from the queue."""

    def __init__(self, js: JetStream, handle: Callable[[events.Event], None]) -> None:
        self._js = js
        self._log = OutputLog(js)
        self._handle = handle

    async def read_ctl(self, tenant: TenantKey, rid: RequestId) -> None:
        """The newest ctl record."""
        try:
            entry = await self._log.last_ctl(tenant, rid)
        except _FAILURES as error:
            self._fail(tenant, rid, "ctl not read", error)
        else:
            self._handle(events.CtlRead(tenant, rid, entry))

    async def read_history(self, tenant: TenantKey, rid: RequestId) -> None:
        """All ctl records, and where the tokens end."""
        try:
            entries = await self._log.ctl_chain(tenant, rid)
            tok_seq = await self._log.last_tok_seq(tenant, rid)
        except _FAILURES as error:
            self._fail(tenant, rid, "history not read", error)
        else:
            self._handle(events.HistoryRead(tenant, rid, entries, tok_seq))

    async def close(self, close: events.Close) -> None:
        """END for a request that is held here."""
        tenant, rid, end = close.tenant, close.rid, close.end
        try:
            last = await self._log.close(tenant, rid, end, expect=close.expect)
        except StreamFull:
            self._handle(events.CloseRefused(tenant, rid))
            return
        except _FAILURES as error:
            self._fail(tenant, rid, "END not written", error)
            return
        if isinstance(last.record, End):
            _log.info("closed", tenant=tenant, rid=rid, status=last.record.status, reason=last.record.reason)
            self._handle(events.EndWritten(tenant, rid))
        else:
            self._handle(events.CallFailed(tenant, rid))

    async def cancel(self, cancel: events.Cancel) -> None:
        """END(cancelled) for a request wherever it is, a hint, and an answer to whoever wished it."""
        tenant, rid = cancel.tenant, cancel.rid
        try:
            last = await self._cancel(cancel)
        except StreamFull:
            self._handle(events.CloseRefused(tenant, rid))
        except _FAILURES as error:
            self._fail(tenant, rid, "not cancelled", error)
        else:
            answer = b"" if last is None else encode(last.record)
            if cancel.reply_to:
                self._js.bus.publish(cancel.reply_to, answer)
            if last is None:
                self._handle(events.CallFailed(tenant, rid))
            else:
                _log.info("cancelled", tenant=tenant, rid=rid, reason=cancel.end.reason)
                self._handle(events.EndWritten(tenant, rid))
                hint = dispatch.encode(dispatch.Cancel(reason=cancel.end.message))
                self._js.bus.publish(subjects.cancel(tenant, rid), hint)
        self._handle(events.CancelOver(tenant, rid))

    async def delete_queued(self, tenant: TenantKey, rid: RequestId) -> None:
        """A hint can be wrong or late: only an END that is seen in the log lets a message go."""
        try:
            entry = await self._log.last_ctl(tenant, rid)
            if entry is not None and isinstance(entry.record, End):
                queued = await self._js.last(streams.REQUESTS, subjects.request_of_any_model(tenant, rid))
                if queued is not None:
                    await self._js.delete(streams.REQUESTS, queued.seq)
        except _FAILURES as error:
            _log.warning("cancelled request not deleted", tenant=tenant, rid=rid, error=str(error))
        self._handle(events.CancelOver(tenant, rid))

    async def _cancel(self, cancel: events.Cancel) -> Entry | None:
        """The END that is in the log afterwards; None: nobody knows this request, and nothing was written."""
        tenant, rid, end = cancel.tenant, cancel.rid, cancel.end
        last = await self._log.last_ctl(tenant, rid)
        if last is not None and isinstance(last.record, End):
            return last
        if last is not None and isinstance(last.record, Lease):
            end = replace(end, fingerprint=last.record.fingerprint)
        elif not end.fingerprint:
            queued = await self._js.last(streams.REQUESTS, subjects.request_of_any_model(tenant, rid))
            if queued is not None:
                end = replace(end, fingerprint=parse_headers(queued.headers).get(FINGERPRINT, ""))
            elif last is None and not cancel.is_known:
                return None
        return await self._log.close(tenant, rid, end)

    def _fail(self, tenant: TenantKey, rid: RequestId, what: str, error: Exception) -> None:
        _log.warning(what, tenant=tenant, rid=rid, error=str(error))
        self._handle(events.CallFailed(tenant, rid))
