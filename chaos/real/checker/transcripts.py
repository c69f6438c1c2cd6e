"""What clients were told, against what is stored: I6, I8, I9 (keys), I11 and I13."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from chaos.real.checker.evidence import ACCEPTED, Conversation, Evidence, Log, stored_at
from chaos.real.checker.findings import Problem
from chaos.real.clients_events import NO_JSON
from schemas.errors import ERRORS
from schemas.output import Tok

Place = tuple[int, int]
"""An event's id, as places compare."""

START: Place = (-1, -1)

NEVER_TOLD = {
    *[ERRORS[reason].code for reason in ("log_lost", "not_continuable", "internal")],
    NO_JSON,
}
"""Codes that no client of a healthy system is told, whatever dies in it."""

NOT_FOUND = ERRORS["not_found"].code
"""Nor this one, of a request that is stored already, but where it is another tenant's."""


def transcripts(evidence: Evidence) -> Iterator[Problem | None]:
    """I6: what clients were told of one request is the same wherever they read it, in order, without a hole or a
    repeat, and a prefix of its text; all of it, where they were told that this is all."""
    for log in evidence.logs.values():
        told: dict[Place, tuple[int, str]] = {}
        for talk in log.conversations:
            yield from _same_events(log, talk, told)
        for talk in log.conversations:
            wrong = _no_hole(talk, told) or _is_prefix(log, talk, told) or _good_end(log, talk)
            yield Problem(f"ask {talk.asked.ask} {wrong}", log.name) if wrong else None


def right_text(log: Log) -> Iterator[str | None]:
    """I8: the text is the reference's, as far as it goes, and all of it where the request ended well."""
    if log.reference is None or log.reference.texts is None:
        return
    right, texts = log.reference.texts, log.texts
    is_right = len(texts) <= len(right) and all(
        one.startswith(text) for one, text in zip(right, texts, strict=False)
    )
    if not is_right:
        yield f"its text is {texts!r}, the reference is {right!r}"
    elif log.end is not None and log.end.status == "ok":
        is_whole = all(one == text for one, text in zip_longest(right, texts, fillvalue=""))
        yield None if is_whole else f"it ended ok with {texts!r}, the reference is {right!r}"
    elif texts:
        yield None


def one_lineage(evidence: Evidence) -> Iterator[Problem | None]:
    """I9: one key has one run that ends well, and its body is known."""
    by_key: dict[tuple[str, str], dict[str, Conversation]] = {}
    for talk in evidence.conversations.values():
        if talk.asked.key:
            runs = by_key.setdefault((talk.asked.tenant, talk.asked.key), {})
            runs[talk.rid] = talk
            if talk.over is not None and talk.over.reason == ERRORS["idempotency_mismatch"].code:
                yield Problem("a key was told to stand for another body", (talk.asked.tenant, talk.rid))
    for (tenant, key), runs in by_key.items():
        logs = [evidence.log_of(tenant, rid) for rid in runs]
        good = [log for log in logs if log is not None and log.end is not None and log.end.status == "ok"]
        if len(good) > 1:
            rids = [log.rid for log in good]
            yield Problem(f"the key {key} has several runs that ended well: {rids}", good[1].name)
        else:
            yield None


def own_tenant(evidence: Evidence) -> Iterator[Problem | None]:
    """I11: a client is shown its own tenant's requests alone, and what was queued for it is what it asked for."""
    owners = {log.rid: log.name[0] for log in evidence.logs.values() if log.queued or log.output}
    for talk in evidence.conversations.values():
        if talk.rid not in owners or talk.head is None:
            continue
        if owners[talk.rid] != talk.asked.tenant and (talk.head.status == ACCEPTED or talk.told):
            message = f"ask {talk.asked.ask} of {talk.asked.tenant} was shown what is {owners[talk.rid]}'s"
            yield Problem(message, (owners[talk.rid], talk.rid))
        else:
            yield None
    for log in evidence.logs.values():
        if log.queued and log.wanted is not None and log.reference is not None:
            is_same = log.wanted.texts == log.reference.texts
            yield None if is_same else Problem("what was queued is not what its client asked for", log.name)


def nothing_after_cancel(evidence: Evidence) -> Iterator[Problem | None]:
    """I13: when a cancel is answered the request has ended, and no token is stored after that. That the slot is free
    within 100 ms is not to be seen from outside; simulated worlds check it."""
    for log in evidence.logs.values():
        for cancel in log.cancels:
            if cancel.status == 404 and log.there_since < cancel.at:
                yield Problem("a cancel was told that there is no such request", log.name)
            if cancel.status != ACCEPTED:
                continue
            late = [
                step
                for step in log.steps
                if isinstance(step.record, Tok) and stored_at(step.stored) > cancel.at
            ]
            if log.end is None or stored_at(log.ends[0].stored) > cancel.at:
                yield Problem("a cancel was answered before there was an END", log.name)
            elif late:
                yield Problem(f"record {late[0].stored.seq} was stored after a cancel was answered", log.name)
            else:
                yield None


def _same_events(
    log: Log, talk: Conversation, told: dict[Place, tuple[int, str]]
) -> Iterator[Problem | None]:
    """Takes in the events of one connection."""
    last = _place(talk.asked.last_event_id)
    who = f"ask {talk.asked.ask}"
    for piece in talk.told:
        if not piece.id:
            continue
        place, said = _place(piece.id), (piece.choice, piece.text)
        if place <= last:
            yield Problem(f"{who} was told event {piece.id} after {last[0]}-{last[1]}", log.name)
        if told.setdefault(place, said) != said:
            yield Problem(f"{who} was told {said} as event {piece.id}, others {told[place]}", log.name)
        last = place


def _no_hole(talk: Conversation, told: dict[Place, tuple[int, str]]) -> str:
    own = {_place(piece.id) for piece in talk.told if piece.id}
    if not own:
        return ""
    first, last = _place(talk.asked.last_event_id), max(own)
    left_out = [place for place in told if first < place < last and place not in own]
    return f"was not told the events {sorted(left_out)[:5]}" if left_out else ""


def _is_prefix(log: Log, talk: Conversation, told: dict[Place, tuple[int, str]]) -> str:
    if not talk.told and talk.outcome != "complete":
        return ""
    texts = [""] * len(log.texts)
    first = _place(talk.asked.last_event_id)
    before = [said for place, said in sorted(told.items()) if place <= first]
    for choice, text in [*before, *[(piece.choice, piece.text) for piece in talk.told]]:
        texts += [""] * (choice + 1 - len(texts))
        texts[choice] += text
    pairs = list(zip_longest(texts, log.texts, fillvalue=""))
    if any(not whole.startswith(text) for text, whole in pairs):
        return f"was told {texts!r}, stored is {log.texts!r}"
    # Whoever goes on from an event that nobody was told text before has nothing to put its own behind.
    if talk.outcome == "complete" and any(text != whole for text, whole in pairs):
        return f"was told {texts!r} as if it were whole, stored is {log.texts!r}"
    return ""


def _good_end(log: Log, talk: Conversation) -> str:
    over, end = talk.over, log.end
    if over is None:
        return ""
    is_mine = talk.asked.may_fail != "foreign" and log.there_since < talk.asked.at
    if over.reason in NEVER_TOLD or (over.reason == NOT_FOUND and is_mine):
        return f"was told {over.reason}"
    if over.outcome != "complete":
        return ""
    if end is None or end.status != "ok":
        return f"was told a good end, and END is {end}"
    if over.tokens >= 0 and over.tokens != log.tokens:
        return f"was charged {over.tokens} tokens, stored are {log.tokens}"
    return ""


def _place(event_id: str) -> Place:
    if not event_id:
        return START
    offset, _, index = event_id.partition("-")
    return int(offset), int(index or 0)
