"""The picture of a run: which faults were on, tokens per second, requests in flight and memory, on one axis of time.

An SVG for the inside of a page: its text and grid take the colours of the page, so that it reads on light and on dark.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from chaos.real.series import MemoryLine, Series, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSTALL = "plots need matplotlib: pip install 'penstock[bench]'"

WIDTH_IN = 12.0
LANE_IN = 0.22
"""Height of one kind of fault, for its label to fit."""

PANELS_IN = (2.6, 1.5, 1.7)
SPANS_SHADED_WELL = 60
MIB = float(1 << 20)

# Stand-ins that matplotlib takes for colours; the page's own go in their place.
_INK, _GRID = "#010203", "#040506"
_PAGE_COLOURS = {_INK: "var(--ink)", _GRID: "var(--grid)"}

_BLUE, _GREEN, _PURPLE = "#4a8fe7", "#2fa36b", "#9467d4"
_ROLES = {"broker": "#c2772b", "edge": _BLUE, "scheduler": _PURPLE, "worker": _GREEN}
_LANES = ("#d9534f", "#e08a3c", "#c9a227", "#7aa33c", "#2fa39a", "#4a8fe7", "#8a6fd6", "#c95fa5")


class PlotsUnavailable(Exception):
    """matplotlib is not installed; the message says how to get it."""


def timeline(series: Series) -> str:
    """The SVG element. Raises PlotsUnavailable."""
    try:
        import matplotlib as mpl  # only the report of a run needs it
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsUnavailable(INSTALL) from error
    kinds = sorted({span.kind for span in series.faults})
    style: dict[Any, Any] = {
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "font.family": "sans-serif",
        "font.size": 9,
        "grid.color": _GRID,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    lanes_in = max(len(kinds), 1) * LANE_IN + 0.1
    heights = (lanes_in, *PANELS_IN)
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.9))
        lanes, tokens, flight, memory = figure.subplots(
            len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}
        )
        _draw_lanes(lanes, series.faults, kinds)
        _draw_tokens(tokens, series)
        _draw_flight(flight, series)
        _draw_memory(memory, series.memory)
        for axes in (tokens, flight, memory):
            _shade(axes, series.faults, kinds)
        memory.set_xlabel("seconds after the begin of the run")
        memory.set_xlim(0, max(series.duration_s, 1))
        return _as_element(figure)


def _draw_lanes(axes: Axes, spans: list[Span], kinds: list[str]) -> None:
    shortest_s = max((span.end_s for span in spans), default=0) / 400
    for row, kind in enumerate(kinds):
        bars = [(s.start_s, max(s.end_s - s.start_s, shortest_s)) for s in spans if s.kind == kind]
        axes.broken_barh(bars, (row - 0.36, 0.72), color=_colour(kind, kinds), linewidth=0)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.4 if kinds else 1, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("faults", loc="left", fontsize=10, fontweight="bold")


def _draw_tokens(axes: Axes, series: Series) -> None:
    seconds = range(len(series.tokens_stored))
    axes.plot(seconds, series.tokens_stored, color=_BLUE, linewidth=1.4, label="stored in the output logs")
    axes.plot(
        seconds,
        series.pieces_told,
        color=_GREEN,
        linewidth=1.0,
        label="pieces told to clients, repeats included",
    )
    _finish(axes, "tokens per second", "tokens/s")
    _legend(axes)


def _draw_flight(axes: Axes, series: Series) -> None:
    axes.plot(
        range(len(series.in_flight)), series.in_flight, color=_PURPLE, linewidth=1.4, drawstyle="steps-post"
    )
    _finish(axes, "requests in flight", "requests")


def _draw_memory(axes: Axes, lives: list[MemoryLine]) -> None:
    named: set[str] = set()
    for life in lives:
        role = next((role for role in _ROLES if role in life.process), "worker")
        axes.plot(
            life.at_s,
            [size / MIB for size in life.rss_bytes],
            color=_ROLES[role],
            linewidth=1.1,
            label="_" if role in named else role,
            marker="." if len(life.at_s) == 1 else None,
        )
        named.add(role)
    _finish(axes, "memory per process (resident)", "MiB")
    if named:
        _legend(axes)


def _shade(axes: Axes, spans: list[Span], kinds: list[str]) -> None:
    # Many that overlap would add up to mud.
    alpha = 0.13 if len(spans) <= SPANS_SHADED_WELL else 0.05
    for span in spans:
        axes.axvspan(span.start_s, span.end_s, color=_colour(span.kind, kinds), alpha=alpha, linewidth=0)


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(axes: Axes) -> None:
    # Above the panel, beside its title: inside it would lie on the lines.
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=8, borderaxespad=0)


def _colour(kind: str, kinds: list[str]) -> str:
    return _LANES[kinds.index(kind) % len(_LANES)]


def _as_element(figure: Figure) -> str:
    """Without what only a file of its own needs: the prolog and the metadata name addresses."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text, flags=re.DOTALL).replace("xlink:href", "href")
    text = re.sub(
        r' width="[\d.]+pt" height="[\d.]+pt"', ' role="img" aria-label="The run over time"', text, count=1
    )
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    return text
