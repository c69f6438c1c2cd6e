"""What a dashboard is made of, before any of it is Grafana's."""

from __future__ import annotations

from typing import Literal, NamedTuple

Look = Literal["lines", "stacked", "stat", "gauge", "table"]
"""How a panel draws: over time, over time on top of each other, the newest value, a dial, the newest values by name."""

Source = Literal["system", "gpu", "host"]
"""Who must be scraped for a query to say something: Penstock itself; DCGM's exporter; Prometheus's node exporter."""


class Query(NamedTuple):
    """A PromQL expression and what its series are called. `source`: without it there is no data."""

    expr: str
    legend: str = ""
    source: Source = "system"


class Panel(NamedTuple):
    """One panel; `says` is the question it answers. `unit` is Grafana's name of one; `top` bounds a dial."""

    title: str
    says: str
    queries: list[Query]
    unit: str = "short"
    look: Look = "lines"
    width: int = 12
    top: float | None = None


class Row(NamedTuple):
    """A row of panels under a heading."""

    title: str
    panels: list[Panel]


class Board(NamedTuple):
    """A dashboard. `uid` is the file's name and part of its address, so it never changes."""

    uid: str
    title: str
    says: str
    rows: list[Row]

    @property
    def queries(self) -> list[Query]:
        """All queries, in the order of the panels."""
        return [query for row in self.rows for panel in row.panels for query in panel.queries]


def quantiles(metric: str, by: str = "") -> list[Query]:
    """p50, p95 and p99 of a histogram over all processes; `by` adds a label that tells series apart."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        Query(
            f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))",
            f"p{share * 100:g}{legend}",
        )
        for share in (0.5, 0.95, 0.99)
    ]


def rate(metric: str, by: str = "", *, legend: str = "") -> Query:
    """How much a counter grows in a second, over all processes."""
    grouped = f"sum by ({by})" if by else "sum"
    return Query(f"{grouped} (rate({metric}[$__rate_interval]))", legend or (f"{{{{{by}}}}}" if by else ""))


def rate_of(metric: str, where: str, legend: str) -> Query:
    """The same of the series with certain labels: a line at 0 while there has been none."""
    return Query(f"sum (rate({metric}{where}[$__rate_interval])) or vector(0)", legend)
