"""`penstock trace`: the way of one request through all processes, from what they kept of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from infra.settings import Settings, load_settings
from infra.trace_names import REQUEST_ID
from infra.trace_store import DIRECTORY, StoredSpan, has_spans, read_spans
from infra.trace_tree import chosen
from infra.trace_view import show
from schemas.errors import PenstockError

WIDTH_UNSEEN = 120
"""Columns of what is printed for no terminal."""


class NoTraceError(PenstockError):
    """Nothing is known of a request, and perhaps why."""


def trace(
    wanted: Annotated[str, typer.Argument(help="The request's id, or its trace's.", metavar="RID")],
    store: Annotated[Path | None, typer.Option("--store", help="Store directory of the `up` to ask.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """The way of one request: every span of it, as a waterfall."""
    settings = load_settings({} if store is None else {"store_dir": store})
    spans = spans_of(settings, bare_id(wanted))
    if as_json:
        print(msgspec.json.encode(spans).decode())
        return
    width = None if sys.stdout.isatty() else WIDTH_UNSEEN
    show(spans, Console(highlight=False, width=width))


def spans_of(settings: Settings, wanted: str) -> list[StoredSpan]:
    """What is kept of a request or of a trace, in the order of its starts. Raises NoTraceError."""
    store = settings.store_dir
    ids = [wanted.encode()]
    found = chosen(read_spans(store, ids), wanted)
    # Spans of the same trace that no request is named in, and those of its requests in other traces.
    ids += [span.trace.encode() for span in found]
    ids += [str(span.attributes[REQUEST_ID]).encode() for span in found if REQUEST_ID in span.attributes]
    found = chosen(read_spans(store, list(dict.fromkeys(ids))), wanted)
    if not found:
        raise NoTraceError(_why(settings, wanted))
    return sorted(found, key=lambda span: span.start)


def bare_id(given: str) -> str:
    """A request's id out of what an answer calls itself, such as `chatcmpl-<rid>` or `resp_<rid>`."""
    return given.replace("_", "-").rpartition("-")[2]


def _why(settings: Settings, wanted: str) -> str:
    place = settings.store_dir / DIRECTORY
    if not has_spans(settings.store_dir):
        kept = "" if settings.trace_store_bytes_max else " (trace_store_bytes_max is 0)"
        return f"no traces are kept in {place}{kept}: nothing ran with this store, see --store"
    ratio = settings.trace_sample_ratio
    sampled = "" if ratio == 1 else f", it was not sampled (trace_sample_ratio is {ratio:g})"
    return f"no trace of {wanted} in {place}: there is no such request{sampled}, or it is too long ago"
