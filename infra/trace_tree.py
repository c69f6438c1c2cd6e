"""The spans of one request as rows, parents before children. Pure.

Spans come from several processes in any order, and some never come: a process that was killed told nothing of what it
was about, and what its span was the parent of stands at the top then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from infra import trace_names as names
from infra.trace_store import StoredSpan


class Row(NamedTuple):
    """`guides` says of each level above, and of this one, whether more follows there; none: it is at the top.
    `orphan`: it has a parent, and that is not here."""

    span: StoredSpan
    guides: tuple[bool, ...]
    orphan: bool


class Group(NamedTuple):
    """Rows that share one time axis, from `start` to `end`, in nanoseconds since 1970."""

    rows: list[Row]
    start: int
    end: int


def chosen(spans: Sequence[StoredSpan], wanted: str) -> list[StoredSpan]:
    """The spans of the request `wanted`, or of the trace, which may be one of many requests; those of a request's trace
    that name none are everybody's."""
    of_trace = [span for span in spans if span.trace == wanted]
    rids = [wanted, *{str(span.attributes[names.REQUEST_ID]): None for span in of_trace if _has_rid(span)}]
    about = [span for span in spans if _is_about(span, rids)]
    traces = {span.trace for span in about if _has_rid(span)}
    return [
        span
        for span in spans
        if span.trace == wanted or _is_about(span, rids) or (span.trace in traces and _is_nobodys(span))
    ]


def groups(spans: Sequence[StoredSpan]) -> list[Group]:
    """All of them in the order of their starts. What came long after everything else, such as a reader of an old
    request, has an axis of its own."""
    found: list[Group] = []
    for rows in _trees(spans):
        start = min(row.span.start for row in rows)
        end = max(row.span.end for row in rows)
        last = found[-1] if found else None
        if last is not None and start - last.end <= last.end - last.start:
            found[-1] = Group([*last.rows, *rows], last.start, max(last.end, end))
        else:
            found.append(Group(rows, start, end))
    return found


def _trees(spans: Sequence[StoredSpan]) -> list[list[Row]]:
    by_id = {(span.trace, span.span): span for span in sorted(spans, key=_by_start)}
    children: dict[tuple[str, str], list[StoredSpan]] = {}
    tops = []
    for span in by_id.values():
        parent = (span.trace, span.parent)
        if span.parent != span.span and parent in by_id:
            children.setdefault(parent, []).append(span)
        else:
            tops.append(span)
    trees = [_rows(top, children) for top in tops]
    seen = {(row.span.trace, row.span.span) for rows in trees for row in rows}
    # A circle of parents is somebody's nonsense, but no reason to hide it.
    return trees + [[Row(span, (), True)] for key, span in by_id.items() if key not in seen]


def _rows(top: StoredSpan, children: dict[tuple[str, str], list[StoredSpan]]) -> list[Row]:
    rows = []
    stack: list[tuple[StoredSpan, tuple[bool, ...]]] = [(top, ())]
    while stack:
        span, guides = stack.pop()
        rows.append(Row(span, guides, bool(span.parent) and not guides))
        below = children.get((span.trace, span.span), [])
        stack += [(child, (*guides, number > 0)) for number, child in enumerate(reversed(below))]
    return rows


def _by_start(span: StoredSpan) -> tuple[int, int]:
    return span.start, -span.end


def _has_rid(span: StoredSpan) -> bool:
    return names.REQUEST_ID in span.attributes


def _is_about(span: StoredSpan, rids: Sequence[str]) -> bool:
    members = span.attributes.get(names.REQUEST_IDS, ())
    return span.attributes.get(names.REQUEST_ID) in rids or (
        isinstance(members, list) and any(rid in members for rid in rids)
    )


def _is_nobodys(span: StoredSpan) -> bool:
    return not _has_rid(span) and names.REQUEST_IDS not in span.attributes
