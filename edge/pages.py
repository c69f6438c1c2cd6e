"""A request as `GET /v1/requests/{rid}` shows it: how it stands, what it has brought, what became of it. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.dialects import CHAT, EMBEDDING, shape_of, told_choices
from edge.errors import Problem, error_object, problem_of
from schemas.choices import Choice
from schemas.log import Entry, Fold, fold
from schemas.output import CtlRecord, Delta, End, Lease, Tok
from schemas.requests import View

Status = Literal["queued", "running", "completed", "failed", "cancelled", "expired"]

_STATUS_OF_END: dict[str, Status] = {
    "ok": "completed",
    "error": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}


class Output(msgspec.Struct, frozen=True):
    """What is there so far: the text of each choice, and how many tokens made it. `choices` is all of each, as a log
    holds it, where that is more than text."""

    texts: list[str]
    tokens: int
    choices: list[Delta] | msgspec.UnsetType = msgspec.UNSET


class PageUsage(msgspec.Struct, frozen=True):
    """Tokens as far as known; the prompt is counted by whoever finishes it."""

    prompt_tokens: int | None
    completion_tokens: int
    total_tokens: int | None


class Page(msgspec.Struct, frozen=True):
    """`queued` is also a request that waits for its next attempt. `model` and `created` are None for one that ended
    before anybody took it and was never told of by an edge. `response` is the body that its POST would have had."""

    id: str
    status: Status
    model: str | None
    created: int | None
    attempts: int
    usage: PageUsage
    output: Output | None = None
    response: msgspec.Raw | None = None
    error: dict[str, str | None] | None = None
    object: str = "request"


def page_of(rid: str, view: View | None, entries: list[Entry]) -> Page | Problem:
    """The page of a request whose log holds `entries` (none: nobody has taken it yet)."""
    ctl = [entry.record for entry in entries if not isinstance(entry.record, Tok)]
    last = ctl[-1] if ctl else None
    log = fold(entries)
    end = last if isinstance(last, End) else None
    told_tokens = end.n if end is not None else None
    is_told = end is not None and end.text is not None
    if (log.hole or told_tokens not in (None, len(log.ids))) and not is_told:
        return Problem("log_lost", f"a part of the output is lost after token {len(log.ids)}")
    tokens = len(log.ids) if told_tokens is None else told_tokens
    choices = (end is not None and told_choices(end)) or log.choices
    problem = problem_of(end) if end is not None else None
    is_completed = end is not None and end.status == "ok"
    # A request that makes no tokens may have been published by somebody who told no view.
    is_embedding = end is not None and end.result is not msgspec.UNSET
    shape = shape_of(view or View(EMBEDDING.name if is_embedding else CHAT.name), rid)
    return Page(
        id=rid,
        status=_status(last),
        model=view.model if view is not None else None,
        created=view.created if view is not None else None,
        attempts=sum(isinstance(record, Lease) for record in ctl),
        usage=_usage(end, log, tokens),
        output=None if is_completed else _output(choices, tokens),
        response=msgspec.Raw(shape.whole(choices, end, tokens)) if end is not None and is_completed else None,
        error=error_object(problem, rid) if problem is not None else None,
    )


def _status(last: CtlRecord | None) -> Status:
    match last:
        case End():
            return _STATUS_OF_END[last.status]
        case Lease():
            return "running"
        case _:
            return "queued"


def _output(choices: list[Choice], tokens: int) -> Output:
    texts = [choice.text for choice in choices]
    if all(choice.is_plain for choice in choices):
        return Output(texts, tokens)
    return Output(texts, tokens, [choice.whole(index) for index, choice in enumerate(choices)])


def _usage(end: End | None, log: Fold, tokens: int) -> PageUsage:
    told = end.usage if end is not None else None
    # Somebody else's END was written while an append may have been in flight; its owner's counts what is there.
    completion = told.completion_tokens if end is not None and end.n is not None and told else tokens
    prompt = told.prompt_tokens if told and told.prompt_tokens else None
    return PageUsage(prompt, completion, None if prompt is None else prompt + completion)
