"""What a history tells second by second: tokens, requests in flight, memory, and which faults were on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import floor

import msgspec

from chaos.real.history import Asked, Begun, Fault, Line, Over, Sample, Stored, Told
from schemas import subjects
from schemas.output import decode_tok
from schemas.streams import OUTPUT


class Span(msgspec.Struct, frozen=True):
    """A fault from its begin to its end, in seconds after the begin of the run."""

    kind: str
    target: str
    start_s: float
    end_s: float


class MemoryLine(msgspec.Struct, frozen=True):
    """The memory of one life of a process: times in seconds after the begin, and bytes."""

    process: str
    pid: int
    at_s: list[float]
    rss_bytes: list[int]


class Series(msgspec.Struct, frozen=True):
    """Figures by second of the run; the index is the second. `tokens_stored` counts tokens in the output logs,
    `pieces_told` what clients were sent, repeats after a reconnect included, `asked` the connections begun."""

    duration_s: float
    tokens_stored: list[int]
    pieces_told: list[int]
    asked: list[int]
    in_flight: list[int]
    faults: list[Span]
    memory: list[MemoryLine]


def series_of(lines: list[Line]) -> Series:
    """Of a whole history. A run that ended without an end of a fault counts it as on until its own end."""
    begin = begin_of(lines)
    duration_s = max((line.at for line in lines), default=begin) - begin
    seconds = floor(duration_s) + 1
    stored, told, asked, change = ([0] * seconds for _ in range(4))
    open_asks: set[int] = set()
    for line in lines:
        second = max(floor(line.at - begin), 0)
        match line:
            case Stored() if line.stream == OUTPUT and not subjects.is_ctl(line.subject):
                stored[second] += len(decode_tok(bytes(line.record)).ids)
            case Told():
                told[second] += 1
            case Asked():
                open_asks.add(line.ask)
                asked[second] += 1
                change[second] += 1
            case Over() if line.ask in open_asks:
                open_asks.remove(line.ask)
                change[second] -= 1
            case _:
                pass
    return Series(
        duration_s,
        stored,
        told,
        asked,
        _sums(change),
        spans_of(lines, begin, duration_s),
        _memory(lines, begin),
    )


def begin_of(lines: Iterable[Line]) -> float:
    """When the run began; the first line's time where that was not written."""
    first = None
    for line in lines:
        if isinstance(line, Begun):
            return line.at
        first = line.at if first is None else min(first, line.at)
    return first or 0.0


def spans_of(lines: Iterable[Line], begin: float, duration_s: float) -> list[Span]:
    """Every fault, by its begin."""
    begun: dict[int, Fault] = {}
    spans = []
    for line in lines:
        if not isinstance(line, Fault):
            continue
        if line.phase == "begin":
            begun[line.id] = line
        elif (first := begun.pop(line.id, None)) is not None:
            spans.append(Span(first.kind, first.target, first.at - begin, line.at - begin))
    spans += [Span(left.kind, left.target, left.at - begin, duration_s) for left in begun.values()]
    return sorted(spans, key=lambda span: (span.start_s, span.kind))


def tokens_per_s(series: Series) -> dict[str, float]:
    """Means of tokens stored: before the first fault, while faults came and went, after the last one. Seconds before
    somebody asked and after the last one did do not count."""
    busy_seconds = [second for second, count in enumerate(series.asked) if count]
    begin, busy = (busy_seconds[0], busy_seconds[-1] + 1) if busy_seconds else (0, 0)
    first = floor(min((span.start_s for span in series.faults), default=busy))
    last = floor(max((span.end_s for span in series.faults), default=busy)) + 1
    parts = {
        "before": series.tokens_stored[begin : min(first, busy)],
        "during": series.tokens_stored[first : min(last, busy)],
        "after": series.tokens_stored[last:busy],
    }
    return {name: round(sum(part) / len(part), 1) for name, part in parts.items() if part}


def faults_by_kind(spans: Iterable[Span]) -> dict[str, Counter[str]]:
    """How often each kind hit each target."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for span in spans:
        kinds[span.kind][span.target] += 1
    return dict(sorted(kinds.items()))


def _memory(lines: Iterable[Line], begin: float) -> list[MemoryLine]:
    lives: dict[tuple[str, int], MemoryLine] = {}
    for line in lines:
        if isinstance(line, Sample):
            life = lives.setdefault((line.process, line.pid), MemoryLine(line.process, line.pid, [], []))
            life.at_s.append(line.at - begin)
            life.rss_bytes.append(line.rss_bytes)
    return [lives[key] for key in sorted(lives)]


def _sums(changes: list[int]) -> list[int]:
    level, levels = 0, []
    for change in changes:
        level += change
        levels.append(level)
    return levels
