"""The ctl records of an attempt: what they say, and what the records of earlier attempts forbid."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec.structs import replace

from schemas.dispatch import WorkItem
from schemas.log import Entry, Fold, vain_attempts
from schemas.output import Cause, CtlRecord, End, Failed, Handoff, Lease, Tail, Timings
from workers.engines.base import Capabilities, EngineFailed, EngineFinished
from workers.limits import Worker, WorkerLimits
from workers.tokens import Tokens

END_TEXT_BYTES_MAX = 256 * 1024
"""The longest whole text that END repeats for a reader that did not stream."""


def cause_after(record: CtlRecord | None) -> Cause:
    """Why there is a lease after `record`, where that is not what its delivery was made for: a death that an earlier
    lease tells of must not count as a strike again."""
    match record:
        case Failed():
            return "engine_error"
        case Handoff():
            return "handoff"
        case _:
            return "redelivered"


def lease_of(item: WorkItem, worker: Worker, nonce: str, cause: Cause, trace: str) -> Lease:
    """The lease that lets `nonce` append; `trace` is where the attempt stands in its request's trace."""
    return Lease(
        nonce=nonce,
        worker=worker.id,
        attempt=item.attempt,
        cause=cause,
        revision=worker.capabilities.revision,
        tokenizer=worker.capabilities.tokenizer,
        engine=worker.capabilities.engine,
        fingerprint=item.meta.fingerprint,
        view=item.meta.view,
        trace=trace,
    )


def end_at_accept(item: WorkItem, limits: WorkerLimits, *, is_late: bool) -> End | None:
    """The END of a request that is not even started, or None if it is. It is written without a lease, so it tells
    nothing of the text. A queue time-out is over only for a request that nobody has started (`ctl_seq` 0)."""
    meta = item.meta
    if item.ctl_seq == 0 and item.age_s > (meta.queue_timeout_s or limits.queue_timeout_s):
        return _end(item, "queue_timeout", "no worker was free for the request in time")
    if is_late:
        return request_timeout(item)
    return None


def end_after_read(
    item: WorkItem, capabilities: Capabilities, limits: WorkerLimits, entries: list[Entry], log: Fold
) -> End | None:
    """The END of a request whose log forbids another attempt, or None if it may go on. A log without tokens leaves
    nothing to continue, so it fits any engine."""
    if log.hole:
        return _end(item, "not_continuable", "a part of the output is lost")
    if log.ids and not all(_fits(entry, capabilities) for entry in entries):
        return _end(item, "not_continuable", "the output was begun by another version of the model or engine")
    if vain_attempts(entries) >= limits.strikes_max:
        message = f"the engine failed {limits.strikes_max} times in a row at this request"
        return _end(item, "poison", message)
    # Leases, not deliveries: many a delivery is given back before anybody tries it.
    if sum(isinstance(entry.record, Lease) for entry in entries) > limits.attempts_max:
        return _end(item, "poison", f"given up after {limits.attempts_max} attempts")
    return None


def request_timeout(item: WorkItem) -> End:
    """The END of a request that did not end in time."""
    return _end(item, "request_timeout", "the request did not end within its time-out")


def end_output_full(item: WorkItem) -> End:
    """The END of a request whose next tokens have no room."""
    return _end(item, "output_full", "the output was cut off: the system has no room for more output")


def end_unreadable(item: WorkItem) -> End:
    """The END of a request whose log holds what is no record."""
    return _end(item, "not_continuable", "the output log cannot be read")


def end_finished(item: WorkItem, event: EngineFinished) -> End:
    """The END of a complete request."""
    return End(
        status="ok",
        finish_reasons=event.finish_reasons,
        stop_reasons=event.stop_reasons,
        result=msgspec.UNSET if event.result is None else event.result,
        usage=event.usage,
        fingerprint=item.meta.fingerprint,
    )


def closing_after(event: EngineFailed, item: WorkItem) -> Failed | End:
    """A run that the engine broke off: another attempt may do better, or it is the END of what no engine could run."""
    if event.reason == "engine_error":
        return Failed(nonce="", error=event.error)
    return _end(item, event.reason, event.error)


def end_of_owner(
    end: End,
    item: WorkItem,
    tokens: Tokens,
    timings: Timings,
    nonce: str,
    lease: int,
    *,
    is_text_wanted: bool,
) -> End:
    """`end` with what only the owner of the lease can say, the whole text too if that is wanted. Of a log with a hole,
    or one that may or may not hold the tokens that were cut off, it cannot say the text."""
    if tokens.logged.hole or tokens.is_cut:
        return replace(end, nonce=nonce, lease=lease, attempts=item.attempt, timings=timings)
    whole, rest = tokens.whole(), tokens.rest()
    content = whole.content_bytes
    is_text_told = is_text_wanted and whole.is_plain and len(content) <= END_TEXT_BYTES_MAX
    return replace(
        end,
        nonce=nonce,
        lease=lease,
        attempts=item.attempt,
        timings=timings,
        n=len(whole.ids),
        sha256=hashlib.sha256(content).hexdigest(),
        tail=Tail(tokens.off, rest.ids, rest.deltas, rest.of) if rest.ids or rest.deltas else None,
        text=whole.texts if is_text_told else None,
    )


def _fits(entry: Entry, capabilities: Capabilities) -> bool:
    record = entry.record
    return not isinstance(record, Lease) or (
        (record.revision, record.tokenizer, record.engine)
        == (capabilities.revision, capabilities.tokenizer, capabilities.engine)
    )


def _end(item: WorkItem, reason: str, message: str) -> End:
    expired = reason in ("queue_timeout", "request_timeout")
    return End(
        status="expired" if expired else "error",
        reason=reason,
        message=message,
        fingerprint=item.meta.fingerprint,
        attempts=item.attempt,
    )
