"""What becomes of a request: I1, I2, I9 (what was refused), I10, and that the queue drains."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.real.checker.evidence import ACCEPTED, Conversation, Evidence, Log, stored_at
from chaos.real.checker.findings import Problem
from edge.ends import CLIENT_GONE
from schemas.errors import ERRORS
from schemas.output import End, Lease
from schemas.requests import QUEUE_TIMEOUT_S, REQUEST_TIMEOUT_S

QUEUE_TIMEOUT_DEFAULT_S, REQUEST_TIMEOUT_DEFAULT_S = 120.0, 300.0
"""The settings of the same names, where the run does not say others."""

ATTEMPTS_MAX = 20
LEASES_SPARE = 1
"""The lease under which a worker finds that there have been too many."""

CLOCK_SLACK_S = 0.05
"""A time-out counts from the broker's time of a message; who finds that it is over counts from when it read that."""

GAVE_UP = ("poison", "engine_error", "not_continuable", "log_lost", "internal")
"""Ways in which a request fails because of something else than itself or its client."""

MAY_RUN = ("outcome_unknown", "draining", "queue_timeout")
"""Of what a client is told with 429 or 503: nobody knows, it goes on elsewhere, and what only an END tells."""

NEVER_RUN = {
    row.code: reason
    for reason, row in ERRORS.items()
    if row.status in (429, 503) and row.code is not None and reason not in MAY_RUN
}
"""By the code that a client is told."""


def ends_once(evidence: Evidence) -> Iterator[Problem | None]:
    """I1: what was accepted gets exactly one END, for a reason, or is still queued."""
    for log in evidence.logs.values():
        accepted = [talk for talk in log.conversations if talk.head and talk.head.status == ACCEPTED]
        # An edge that was paused may send its head before it knows that no broker is there: a refusal, see I9.
        if not log.queued and all(_was_refused(talk) for talk in accepted):
            continue
        is_queued = bool(log.queued) and len(log.removed) < len(log.queued)
        if len(log.ends) > 1:
            yield Problem(f"it has {len(log.ends)} ENDs", log.name)
        elif log.end is not None:
            yield _problem(log, _unwarranted(evidence, log, log.end))
        elif not is_queued or _is_drained(evidence):
            yield Problem("it was accepted, is not queued, and has no END: it is lost", log.name)
        else:
            yield None


def leaves_with_end(evidence: Evidence) -> Iterator[Problem | None]:
    """I2: a message leaves REQUESTS only when there is an END in OUTPUT: it is older than the ack."""
    for log in evidence.logs.values():
        for removed in log.removed:
            asked_at = removed.asked_at or removed.gone_at or removed.at
            if not log.ends:
                yield Problem(
                    f"message {removed.seq} left the queue ({removed.how}) and has no END", log.name
                )
            elif stored_at(log.ends[0].stored) > asked_at:
                late_s = stored_at(log.ends[0].stored) - asked_at
                yield Problem(
                    f"message {removed.seq} was {removed.how} {late_s:.3f} s before its END was stored",
                    log.name,
                )
            else:
                yield None


def _was_refused(talk: Conversation) -> bool:
    return talk.over is not None and talk.over.reason in NEVER_RUN


def refused_never_runs(evidence: Evidence) -> Iterator[Problem | None]:
    """I9: who was refused for certain has nothing queued. With a key, another connection may have got it queued."""
    for talk in evidence.conversations.values():
        over = talk.over
        if over is None or over.reason not in NEVER_RUN or talk.asked.key or talk.asked.rid or not talk.rid:
            continue
        log = evidence.log_of(talk.asked.tenant, talk.rid)
        if log is not None and (log.queued or any(isinstance(step.record, Lease) for step in log.steps)):
            yield Problem(f"it was refused with {over.reason}, and was queued", log.name)
        else:
            yield None


def attempts_bounded(evidence: Evidence) -> Iterator[Problem | None]:
    """I10: attempts are bounded, and only what makes engines fail ends as poison, or in another way that is no fault of
    the client's; it gives its place back."""
    most = int(evidence.setting("attempts_max", ATTEMPTS_MAX)) + LEASES_SPARE
    for log in evidence.logs.values():
        attempts = sum(isinstance(step.record, Lease) for step in log.steps)
        if attempts > most:
            yield Problem(f"it was tried {attempts} times", log.name)
        if log.end is None:
            continue
        if log.end.reason in GAVE_UP and log.is_healthy:
            yield Problem(f"nothing is wrong with it, and it ended as {log.end.reason}: it is lost", log.name)
        elif not log.is_healthy and log.queued and not log.removed and _is_drained(evidence):
            yield Problem("it is poison, has ended and still has its place", log.name)
        else:
            yield None


def drains(evidence: Evidence) -> Iterator[Problem | None]:
    """Liveness: with the faults over, the queue drains, and everybody who asks is answered or cut off."""
    for settled in evidence.settled:
        queued = settled.queued
        yield (
            Problem(f"{queued} messages are queued {settled.after_s:.0f} s after the faults")
            if queued
            else None
        )
    if not evidence.settled:
        return
    for talk in evidence.conversations.values():
        name = (talk.asked.tenant, talk.rid) if talk.rid else None
        if talk.over is None:
            yield Problem(f"ask {talk.asked.ask} was neither answered nor cut off", name)
        elif talk.over.reason == "no_answer":
            yield Problem(f"ask {talk.asked.ask} heard nothing for as long as its client had patience", name)
        else:
            yield None


def _problem(log: Log, wrong: str) -> Problem | None:
    return Problem(wrong, log.name) if wrong else None


def _is_drained(evidence: Evidence) -> bool:
    return bool(evidence.settled) and not evidence.settled[-1].queued


def _unwarranted(evidence: Evidence, log: Log, end: End) -> str:
    """Why an END has no reason to be there; empty: it has one."""
    match end.status:
        case "cancelled":
            return _unwanted_cancel(log, end)
        case "expired" if log.queued:
            header, setting, default = (
                (QUEUE_TIMEOUT_S, "queue_timeout_s", QUEUE_TIMEOUT_DEFAULT_S)
                if end.reason == "queue_timeout"
                else (REQUEST_TIMEOUT_S, "request_timeout_s", REQUEST_TIMEOUT_DEFAULT_S)
            )
            allowed_s = float(log.queued[0].headers.get(header, evidence.setting(setting, default)))
            # An edge counts from when it was asked: it may have waited for the broker to take the request.
            began = min([stored_at(log.queued[0]), *(talk.asked.at for talk in log.conversations)])
            took_s = stored_at(log.ends[0].stored) - began
            is_early = took_s < allowed_s - CLOCK_SLACK_S
            return f"it expired after {took_s:.2f} s, it had {allowed_s:g} s" if is_early else ""
        case _:
            return ""


def _unwanted_cancel(log: Log, end: End) -> str:
    if any(cancel.status in (0, ACCEPTED) for cancel in log.cancels):
        return ""
    gone = [talk for talk in log.conversations if talk.outcome != "complete"]
    policies = {talk.asked.leaving for talk in log.conversations} - {
        ""
    }  # who does not say has the request's own
    if end.message == CLIENT_GONE.message and policies == {"detach"}:
        return "it was cancelled as its client left, who had detached from it"
    if log.conversations and not gone:
        return f"nobody cancelled it and nobody left it, and it ended as cancelled: {end.message}"
    return ""
