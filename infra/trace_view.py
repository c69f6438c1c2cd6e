"""A trace as a picture in the terminal: a tree of spans, each with its bar on the time axis."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from infra import trace_names as names
from infra.trace_store import StoredSpan
from infra.trace_tree import Group, Row, groups

NAME_CHARS_MAX = 44
PROCESS_CHARS_MAX = 18
BAR_CHARS_MIN = 20
NUMBER_CHARS = 10
MEMBERS_SHOWN = 4

_TOLD = {
    names.HTTP_STATUS: "status",
    names.OUTCOME: "outcome",
    names.REASON: "reason",
    names.ERROR_TYPE: "error",
    names.ATTEMPT: "attempt",
    names.DELIVERY: "delivery",
    names.CAUSE: "cause",
    names.WORKER: "worker",
    names.TOKENS: "tokens",
    names.GEN_AI_USAGE_INPUT: "prompt tokens",
    names.GEN_AI_USAGE_OUTPUT: "completion tokens",
    names.GEN_AI_RESPONSE_FINISH: "finish",
}
"""What of a span's attributes is shown, in this order, and as what; `--json` has all."""


def show(spans: Sequence[StoredSpan], console: Console) -> None:
    """Prints all of them, which must be some. Times are milliseconds from the first start."""
    found = groups(spans)
    zero = found[0].start
    names_width = min(NAME_CHARS_MAX, max(_name_width(row) for group in found for row in group.rows))
    process_width = min(PROCESS_CHARS_MAX, max(len(span.process) for span in spans))
    bar_width = max(
        BAR_CHARS_MIN, console.width - names_width - process_width - 2 * NUMBER_CHARS - len("   ")
    )
    console.print(_heading(spans, found))
    for group in found:
        scale = f"{_ms(group.start - zero)} to {_ms(group.end - zero)} ms"
        head = f"{'':{names_width}} {'process':{process_width}}{'at ms':>{NUMBER_CHARS}}{'took ms':>{NUMBER_CHARS}}"
        console.print(Text(f"{head}  {scale:^{bar_width}}".rstrip(), "dim"), no_wrap=True, crop=False)
        for row in group.rows:
            line = Text(_cut(_guide(row) + row.span.name, names_width), "red" if row.span.error else "")
            line.append(f" {_cut(row.span.process, process_width)}", "cyan")
            line.append(f"{_ms(row.span.start - zero):>{NUMBER_CHARS}}")
            line.append(f"{_ms(row.span.end - row.span.start):>{NUMBER_CHARS}}  ")
            line.append(_bar(row.span, group, bar_width), "red" if row.span.error else "green")
            console.print(line, no_wrap=True, crop=False, soft_wrap=True)
            indent = _indent(row)
            for note in _notes(row, spans, zero):
                console.print(Text(f"{indent}{note}", "dim"), soft_wrap=True)


def _heading(spans: Sequence[StoredSpan], found: Sequence[Group]) -> Text:
    start = min(group.start for group in found)
    took = max(group.end for group in found) - start
    begun = datetime.fromtimestamp(start / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    traces = ", ".join({span.trace: None for span in spans})
    processes = len({span.process for span in spans})
    return Text(f"trace {traces}\n{begun}Z, {_ms(took)} ms, {len(spans)} spans of {processes} processes")


def _notes(row: Row, spans: Sequence[StoredSpan], zero: int) -> list[str]:
    span = row.span
    notes = []
    if row.orphan:
        kind = "the caller's" if span.kind == "server" else "not here: its process may have been killed"
        notes.append(f"parent {span.parent}: {kind}")
    told = [
        f"{label} {_value(span.attributes[key])}" for key, label in _TOLD.items() if key in span.attributes
    ]
    if span.error and span.attributes.get(names.ERROR_TYPE) != span.error:
        told.append(f"failed: {span.error}")
    if told:
        notes.append(", ".join(told))
    members = span.attributes.get(names.REQUEST_IDS)
    if isinstance(members, list):
        more = f" and {len(members) - MEMBERS_SHOWN} more" if len(members) > MEMBERS_SHOWN else ""
        notes.append(f"batch of {len(members)}: {', '.join(members[:MEMBERS_SHOWN])}{more}")
    notes += _links(span, spans)
    notes += [
        f"{_MARK} {_ms(event.at - zero)} {event.name}"
        + "".join(f", {key.rpartition('.')[2]} {_value(value)}" for key, value in event.attributes.items())
        for event in span.events
    ]
    return notes


def _links(span: StoredSpan, spans: Sequence[StoredSpan]) -> list[str]:
    labels = span.attributes.get(names.LINK, ())
    named = {other.span: other.name for other in spans}
    notes = []
    for number, link in enumerate(span.links[:MEMBERS_SHOWN]):
        label = labels[number] if isinstance(labels, list) and number < len(labels) else ""
        notes.append(f"links to {label or named.get(link.span_id, 'a span')} ({link.span_id})")
    if len(span.links) > MEMBERS_SHOWN:
        notes.append(f"links to {len(span.links) - MEMBERS_SHOWN} more")
    return notes


def _bar(span: StoredSpan, group: Group, width: int) -> str:
    length = max(1, group.end - group.start)

    def cell(at: int) -> int:
        return min(width - 1, max(0, (at - group.start) * width // length))

    first, last = cell(span.start), cell(span.end)
    cells = [" "] * first + ["━"] * (last - first + 1)
    for event in span.events:
        place = cell(event.at)
        if place < len(cells):
            cells[place] = _MARK
    return "".join(cells)


_MARK = "◆"


def _guide(row: Row) -> str:
    if not row.guides:
        return ""
    above = "".join("│ " if more else "  " for more in row.guides[:-1])
    return above + ("├ " if row.guides[-1] else "└ ")


def _indent(row: Row) -> str:
    return "".join("│ " if more else "  " for more in row.guides) + "  "


def _name_width(row: Row) -> int:
    return 2 * len(row.guides) + len(row.span.name)


def _cut(text: str, width: int) -> str:
    return f"{text:{width}}" if len(text) <= width else f"{text[: width - 1]}…"


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f}"
