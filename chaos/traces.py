"""The spans of a world, and what must hold of them: nothing is told twice that viewers add up, and trees are whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from chaos.ledger import Ledger, Log, Violated
from chaos.processes import Process
from infra import trace_names as names
from infra.tracing import NoTracer, Span, Tracer
from schemas.trace import is_sampled, parse_traceparent
from workers.tracing import PROCESS

RATIOS = (0.0, 1.0, 0.0, 0.5)
"""By the seed: half of the worlds are traced, some of them in part."""


class _Collecting:
    """Keeps what one process tells; what it has told is not lost with it."""

    def __init__(self, traces: Traces, process: Process) -> None:
        self.ratio = traces.ratio
        self._traces = traces
        self._process = process

    def emit(self, span: Span) -> None:
        """Kept for the end."""
        self._traces.spans.append((span, self._process))

    def close(self) -> None:
        """Nothing waits."""


class Traces:
    """The spans of all processes of a world."""

    def __init__(self, seed: int, violated: Violated, count: Counter[str]) -> None:
        self.ratio = RATIOS[seed % len(RATIOS)]
        self.spans: list[tuple[Span, Process]] = []
        self._violated = violated
        self._count = count

    def tracer_of(self, process: Process) -> Tracer:
        """Where a process sends its spans."""
        return _Collecting(self, process) if self.ratio else NoTracer()

    def check(self, ledger: Ledger, life_of: Callable[[str], Process | None], *, none_died: bool) -> None:
        """Of a world that has come to rest. `life_of`: the process of a worker, by the worker's name."""
        used: dict[tuple[str, str], list[Span]] = defaultdict(list)
        parents: dict[tuple[str, str], Span] = {}
        for span, _ in self.spans:
            self._check_one(span, parents)
            if names.GEN_AI_USAGE_OUTPUT in span.attributes:
                used[span.context.trace_id, str(span.attributes[names.REQUEST_ID])].append(span)
        told = {rid: len(found) for (_, rid), found in used.items()}
        for log in ledger.logs.values():
            self._check_usage(log, told.get(log.name[1], 0), life_of)
        for span, process in self.spans:
            is_there = not span.parent_id or (span.context.trace_id, span.parent_id) in parents
            if is_there:
                self._count["span with its parent"] += bool(span.parent_id)
            elif none_died or (process.alive and self._is_of_attempt(span)):
                self._violated("traces", f"nobody tells of the parent of {span}")

    def _check_one(self, span: Span, seen: dict[tuple[str, str], Span]) -> None:
        if span.start > span.end:
            self._violated("traces", f"ends before it starts: {span}")
        where = (span.context.trace_id, span.context.span_id)
        twin = seen.get(where, span)
        if twin is not span and not any(names.REPORTED_BY in one.attributes for one in (span, twin)):
            # A worker that was cut off for good may say of an attempt what the next one has said already.
            self._violated("traces", f"two spans have one id: {span} and {twin}")
        if not is_sampled(span.context.trace_id, self.ratio) and span.name != "batch":
            self._violated("traces", f"is not to be traced: {span}")
        seen[where] = span
        self._count[f"span {span.name.partition(' ')[0]}"] += 1
        if span.name == PROCESS:
            self._count[f"attempt {span.attributes[names.OUTCOME]}"] += 1

    def _check_usage(self, log: Log, told: int, life_of: Callable[[str], Process | None]) -> None:
        """A worker that lives on after its END tells what was used, and nobody else does."""
        end, rid = log.end, log.name[1]
        if log.was_lost:  # it may have ended twice
            return
        if told > 1:
            self._violated("traces", f"the usage of {rid} is told {told} times")
        if end is None or end.usage is None or not end.nonce or not log.leases[-1].trace:
            return
        process = life_of(end.nonce.rpartition(".")[0])
        if process is not None and process.alive and not told and not self._gave_up(log.leases[-1].trace):
            self._violated("traces", f"nobody tells what {rid} used")
        self._count["usage told"] += told

    def _gave_up(self, trace: str) -> bool:
        """Whether an attempt was cut off until it let go of its request: it never heard that its END was stored."""
        context = parse_traceparent(trace)
        attempts = [span for span, _ in self.spans if span.name == PROCESS and span.context == context]
        return any(span.error == "gave_up" for span in attempts)

    def _is_of_attempt(self, span: Span) -> bool:
        return span.name in ("lease", "prefill", "decode", "END", "ack")
