"""The waterfall of a trace whose first worker was killed, as it is printed."""

from __future__ import annotations

import io
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from infra import trace_names as names
from infra.cli import app
from infra.settings import load_settings
from infra.trace_cli import NoTraceError, bare_id, spans_of
from infra.trace_store import DIRECTORY, StoredEvent, StoredSpan
from infra.trace_tree import chosen, groups
from infra.trace_view import show
from schemas.trace import TraceContext

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE = "1" * 32
RID = "r4sbx4lg6hk4gjbpam3q74q3hu"
OTHER_RID = "zzzzzzzzzzzzzzzzzzzz"
ZERO = 1_795_272_278_000_000_000
MS = 1_000_000


def stored(
    number: int, parent: int, name: str, process: str, at: int, took: int, **fields: Any
) -> StoredSpan:
    """Times in milliseconds."""
    attributes = {names.REQUEST_ID: RID, **fields.pop("attributes", {})}
    return StoredSpan(
        **{
            "trace": TRACE,
            "span": f"{number:016x}",
            "parent": f"{parent:016x}" if parent else "",
            "name": name,
            "role": process.partition("-")[0],
            "process": process,
            "start": ZERO + at * MS,
            "end": ZERO + (at + took) * MS,
            "attributes": attributes,
            **fields,
        }
    )


KILLED = [
    stored(
        1,
        99,
        "POST /v1/chat/completions",
        "edge-1-8f76",
        0,
        800,
        kind="server",
        events=[StoredEvent("admitted", ZERO + MS)],
        attributes={names.HTTP_STATUS: 200},
    ),
    stored(2, 1, "publish req", "edge-1-8f76", 1, 2, kind="producer"),
    stored(
        3,
        1,
        "deliver",
        "edge-1-8f76",
        3,
        797,
        events=[StoredEvent("first token", ZERO + 40 * MS), StoredEvent("end", ZERO + 790 * MS)],
    ),
    stored(4, 2, "queue", "scheduler-1-77aa", 3, 17),
    stored(
        5,
        2,
        "attempt",
        "worker-2-c0de",
        500,
        290,
        attributes={names.ATTEMPT: 2, names.CAUSE: "worker_dead", names.LINK: ["attempt 1"]},
        links=[TraceContext(TRACE, f"{50:016x}", True)],
    ),
    stored(6, 50, "decode", "worker-1-dead", 30, 170, error="killed"),
    StoredSpan(
        trace=OTHER_TRACE,
        span=f"{7:016x}",
        name="batch",
        role="scheduler",
        process="scheduler-1-77aa",
        start=ZERO + 4 * MS,
        end=ZERO + 6 * MS,
        attributes={names.REQUEST_IDS: [RID, OTHER_RID]},
    ),
]
"""An attempt (50) whose process was killed before it told of itself, and one that speaks for it."""

PICTURE = """\
trace 0af7651916cd43dd8448eb211c80319c, 11111111111111111111111111111111
2026-11-21 14:44:38.000Z, 800.0 ms, 7 spans of 4 processes
"""


def printed(spans: list[StoredSpan], width: int = 110) -> str:
    out = io.StringIO()
    show(spans, Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_the_picture_has_the_tree_the_times_and_the_notes() -> None:
    text = printed(KILLED)
    lines = text.splitlines()
    assert text.startswith(PICTURE)
    rows = [line for line in lines if "━" in line]
    assert [row.partition("  ")[0] for row in rows] == [
        "POST /v1/chat/completions edge-1-8f76",
        "├ publish req",
        "│ ├ queue",
        "│ └ attempt",
        "└ deliver",
        "batch",
        "decode",
    ]
    assert rows[3].split()[3:6] == ["worker-2-c0de", "500.0", "290.0"]
    notes = {line.strip("│ ") for line in lines}
    assert f"parent {99:016x}: the caller's" in notes
    assert f"parent {50:016x}: not here: its process may have been killed" in notes
    assert f"links to attempt 1 ({50:016x})" in notes
    assert "attempt 2, cause worker_dead" in notes
    assert f"batch of 2: {RID}, {OTHER_RID}" in notes
    assert "failed: killed" in notes
    assert "◆ 40.0 first token" in notes


def test_bars_stand_where_their_times_are() -> None:
    rows = [line for line in printed(KILLED).splitlines() if "━" in line]
    begin = rows[0].index("━")
    width = len(rows[0]) - begin
    attempt = rows[3]
    assert abs((attempt.index("━") - begin) / width - 500 / 800) < 0.04
    assert abs((len(attempt) - begin) / width - 790 / 800) < 0.04
    deliver = rows[4]
    assert abs((deliver.index("◆") - begin) / width - 40 / 800) < 0.04
    assert max(map(len, rows)) <= 110


def test_the_order_in_which_spans_came_does_not_matter() -> None:
    pictures = {printed([*some, *KILLED[4:]]) for some in permutations(KILLED[:4])}
    assert len(pictures) == 1


def test_a_circle_of_parents_is_shown_and_ends() -> None:
    circle = [
        stored(1, 2, "one", "p", 0, 1),
        stored(2, 1, "two", "p", 0, 1),
        stored(3, 3, "three", "p", 0, 1),
    ]
    rows = [row for group in groups(circle) for row in group.rows]
    assert sorted(row.span.name for row in rows) == ["one", "three", "two"]


def test_what_came_long_after_has_an_axis_of_its_own() -> None:
    late = stored(9, 0, "GET /v1/requests/{rid}/stream", "edge-2", 3_600_000, 5, kind="server")
    first, second = groups([*KILLED, late])
    assert (first.end - first.start, second.end - second.start) == (800 * MS, 5 * MS)
    assert "3600000.0 to 3600005.0 ms" in printed([*KILLED, late])


def test_a_rid_names_its_own_spans_and_a_trace_all_of_it() -> None:
    other = stored(20, 99, "POST /v1/embeddings", "edge-1", 0, 1, attributes={names.REQUEST_ID: OTHER_RID})
    foreign = stored(21, 0, "POST", "edge-1", 0, 1, trace="2" * 32, attributes={names.REQUEST_ID: "q" * 20})
    nobodys = stored(22, 99, "hop", "broker", 0, 1)
    del nobodys.attributes[names.REQUEST_ID]  # type: ignore[attr-defined]
    everything = [*KILLED, other, foreign, nobodys]
    assert chosen(everything, RID) == [*KILLED, nobodys]
    assert chosen(everything, OTHER_RID) == [KILLED[6], other, nobodys]
    assert chosen(everything, TRACE) == [*KILLED, other, nobodys]
    assert chosen(everything, "w" * 20) == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / DIRECTORY).mkdir()
    for number, span in enumerate(KILLED):
        file = tmp_path / DIRECTORY / f"p{number % 3}-1.jsonl"
        with file.open("ab") as out:
            out.write(msgspec.json.encode(span) + b"\n")
    return tmp_path


@pytest.mark.parametrize("wanted", [RID, f"chatcmpl-{RID}", f"resp_{RID}", TRACE])
def test_the_command_finds_a_request_by_what_a_client_knows_of_it(store: Path, wanted: str) -> None:
    done = CliRunner().invoke(app, ["trace", wanted, "--store", str(store), "--json"])
    assert done.exit_code == 0, done.output
    spans = msgspec.json.decode(done.stdout, type=list[StoredSpan])
    assert [span.name for span in spans][:2] == ["POST /v1/chat/completions", "publish req"]
    assert len(spans) == len(KILLED)
    shown = CliRunner().invoke(app, ["trace", wanted, "--store", str(store)])
    assert "├ publish req" in shown.stdout


def test_it_says_why_there_is_none(store: Path, tmp_path: Path) -> None:
    def why(directory: Path, **settings: object) -> str:
        given = {"store_dir": str(directory), **{name: str(value) for name, value in settings.items()}}
        with pytest.raises(NoTraceError) as caught:
            spans_of(load_settings(given), OTHER_RID + "z")
        return str(caught.value)

    assert "nothing ran with this store" in why(tmp_path / "nowhere")
    assert "trace_store_bytes_max is 0" in why(tmp_path / "nowhere", trace_store_bytes_max=0)
    assert "no such request, or" in why(store)
    assert "not sampled (trace_sample_ratio is 0.01)" in why(store, trace_sample_ratio=0.01)


def test_ids_that_answers_call_themselves() -> None:
    assert {bare_id(text) for text in (RID, f"chatcmpl-{RID}", f"resp_{RID}", f"msg_{RID}")} == {RID}
