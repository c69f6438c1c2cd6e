"""Tables of metrics: each name is declared once, with its labels and its meaning, and documented from there.

Stems are those people know from vLLM and Dynamo, with the prefix `penstock_` and the label `model`. Labels are bounded:
no text of a client ever becomes one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

MODELS_MAX = 200
"""Models that have a label of their own in one process; a page with more of them is of no use to anybody."""

OTHER_MODEL = "other"
"""The label of all that come after those."""

UNKNOWN_MODEL = "unknown"
"""The label of requests that name no registered model: client text never becomes a label."""

# Buckets of the OpenTelemetry GenAI conventions: gen_ai.server.time_to_first_token, gen_ai.server.time_per_output_token
# (with one more at each end: records may bring several tokens, and a redelivery is a gap of seconds) and
# gen_ai.client.operation.duration.
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
BETWEEN_TOKENS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
DURATION_S = tuple(0.01 * 2**power for power in range(16))

QUICK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Of what takes milliseconds when all is well."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)

Kind = Literal["counter", "gauge", "histogram"]
_UNITS = ("seconds", "bytes", "ratio")
_Made = TypeVar("_Made", bound=Collector)


class Row(NamedTuple):
    """A metric as documentation shows it; `name` is the one to ask Prometheus for, of a histogram its stem."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str

    @property
    def unit(self) -> str:
        """Empty: a number of whatever is counted."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in _UNITS if stem.endswith(f"_{unit}")), "")


class Table:
    """The metrics of one role: made here, and shown by every process of it."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.rows: list[Row] = []
        self._collectors: list[Collector] = []

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """Counts events; `name` ends in `_total`."""
        assert name.endswith("_total"), name
        return self._add(Row(name, "counter", labels, meaning), Counter(name, meaning, labels, registry=None))

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        """Something that goes up and down."""
        return self._add(Row(name, "gauge", labels, meaning), Gauge(name, meaning, labels, registry=None))

    def histogram(self, name: str, meaning: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        """A distribution of what happens once for a request, or less often."""
        made = Histogram(name, meaning, labels, buckets=buckets, registry=None)
        return self._add(Row(name, "histogram", labels, meaning), made)

    def intervals(self, name: str, meaning: str, *, buckets: Sequence[float]) -> Intervals:
        """A distribution, by model, of what happens for every record."""
        return self._add(Row(name, "histogram", ("model",), meaning), Intervals(name, meaning, buckets))

    def told(self, name: str, meaning: str) -> Told:
        """A counter that something else keeps."""
        return self._add(Row(name, "counter", (), meaning), Told(name, meaning))

    def register(self, registry: CollectorRegistry) -> None:
        """Shows all of them in `registry`."""
        for collector in self._collectors:
            registry.register(collector)

    def _add(self, row: Row, made: _Made) -> _Made:
        self.rows.append(row)
        self._collectors.append(made)
        return made


class Series:
    """One series of `Intervals`."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one, without the lock of the client library: all of a process happens in one event loop."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Intervals(Collector):
    """A histogram that may be fed for every record: see `Series.observe`."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float]) -> None:
        self._name, self._meaning, self._bounds = name, meaning, tuple(bounds)
        self._series: dict[str, Series] = {}

    def of(self, model: str) -> Series:
        """The series of a model's label: keep it."""
        return self._series.setdefault(model, Series(self._bounds))

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Its name."""
        return [HistogramMetricFamily(self._name, self._meaning, labels=["model"])]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """All series."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=["model"])
        for model, series in self._series.items():
            total, buckets = 0, []
            for bound, count in zip([*map(float, self._bounds), "+Inf"], series.counts, strict=True):
                total += count
                buckets.append((str(bound), total))
            family.add_metric([model], buckets, series.sum)
        return [family]


class Told(Collector):
    """A counter without labels; `value` is what it stands at."""

    def __init__(self, name: str, meaning: str) -> None:
        self._name, self._meaning = name, meaning
        self.value = 0

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Its name."""
        return [CounterMetricFamily(self._name, self._meaning)]

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Its value."""
        return [CounterMetricFamily(self._name, self._meaning, self.value)]


class Labels:
    """Names that may be labels: the first `most` of them, and one for all others."""

    def __init__(self, most: int = MODELS_MAX) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The label of a name."""
        known = self._known.get(name)
        if known is not None:
            return known
        if len(self._known) >= self._most:
            return OTHER_MODEL
        self._known[name] = name
        return name


MODELS = Labels()
"""The models that this process has told of."""
