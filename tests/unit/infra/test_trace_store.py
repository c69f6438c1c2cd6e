"""The store of traces: every process writes, all of them together stay under one bound, and what is there is read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from infra import clock, trace_store
from infra.trace_store import DIRECTORY, TraceStore, has_spans, read_spans
from infra.tracing import Span, SpanEvent, unix_ns
from tests.unit.infra.spans import ROOT, TRACE, span

BYTES_MAX = 64 << 10
TOO_LONG = BYTES_MAX // trace_store.FILES

SIZES = st.one_of(st.integers(0, TOO_LONG - 500), st.integers(TOO_LONG, 6000))


def store_at(directory: Path, process: str = "edge-1", bytes_max: int = BYTES_MAX) -> TraceStore:
    return TraceStore(directory, "edge", process, bytes_max=bytes_max)


def sized(number: int, size: int) -> Span:
    return span(number, attributes={"text": "x" * size})


def used(directory: Path) -> int:
    return sum(file.stat().st_size for file in (directory / DIRECTORY).glob("*"))


def test_a_span_comes_back_as_it_was(tmp_path: Path) -> None:
    now = clock.now()
    told = span(
        7,
        kind="producer",
        attributes={"text": "a", "list": ["b", "c"], "n": 3, "yes": True},
        events=[SpanEvent("head sent", now - 0.5, {"n": 1})],
        links=[ROOT],
        error="poison",
        start=now - 2,
        end=now,
    )
    assert store_at(tmp_path).write([told]) == 0
    (read,) = read_spans(tmp_path, [TRACE.encode()])
    assert (read.trace, read.span, read.parent) == (TRACE, f"{7:016x}", ROOT.span_id)
    assert (read.role, read.process, read.kind, read.error) == ("edge", "edge-1", "producer", "poison")
    assert read.attributes == told.attributes
    assert read.links == [ROOT]
    assert abs(read.end - unix_ns(now)) < 50e6
    assert abs(read.end - read.start - 2e9) < 1e4, "what is between two times of a span is exact"
    assert abs(read.events[0].at - read.start - 1.5e9) < 1e4
    assert read.events[0].attributes == {"n": 1}


def test_only_what_is_wanted_is_read_and_half_a_line_is_none(tmp_path: Path) -> None:
    store_at(tmp_path, "a").write([span(1, attributes={"rid": "one"}), span(2, attributes={"rid": "two"})])
    (file,) = (tmp_path / DIRECTORY).iterdir()
    file.write_bytes(file.read_bytes() + b'{"trace":"' + TRACE.encode() + b'","span":"one')
    store_at(tmp_path, "b").write([span(3, attributes={"rid": "one"})])
    assert [read.name for read in read_spans(tmp_path, [b"one"])] == ["span 1", "span 3"]
    assert len(read_spans(tmp_path, [TRACE.encode()])) == 3
    assert read_spans(tmp_path / "nowhere", [b"one"]) == []
    assert has_spans(tmp_path)
    assert not has_spans(tmp_path / "nowhere")


@given(
    writes=st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.lists(SIZES, min_size=1, max_size=8)),
        max_size=60,
    )
)
def test_all_files_together_stay_under_the_bound_whoever_writes_and_restarts(
    writes: list[tuple[int, bool, list[int]]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stores = {number: store_at(directory, f"w-{number}") for number in range(6)}
        count = 0
        for number, restarts, sizes in writes:
            if restarts:
                stores[number] = store_at(directory, f"w-{number}-{count}")
            spans = [sized(count + at, size) for at, size in enumerate(sizes)]
            count += len(sizes)
            lost = stores[number].write(spans)
            kept = {read.span for read in read_spans(directory, [TRACE.encode()])}
            assert used(directory) <= BYTES_MAX
            assert len([one for one in spans if one.context.span_id in kept]) == len(spans) - lost
            assert lost == len([size for size in sizes if size >= TOO_LONG])


def test_the_oldest_go_first_whoever_they_are_of(tmp_path: Path) -> None:
    for number in range(40):
        store_at(tmp_path, f"dead-{number}").write([sized(number, 3000)])
        (file,) = (tmp_path / DIRECTORY).glob(f"dead-{number}-*")
        os.utime(file, (number, number))
    kept = [int(read.span, 16) for read in read_spans(tmp_path, [TRACE.encode()])]
    assert kept == list(range(40 - len(kept), 40))
    assert len(kept) > 10


def test_a_file_that_was_deleted_is_begun_anew(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.write([span(1)])
    for file in (tmp_path / DIRECTORY).iterdir():
        file.unlink()
    assert store.write([span(2)]) == 0
    assert [read.name for read in read_spans(tmp_path, [TRACE.encode()])] == ["span 2"]


def test_a_span_that_is_too_long_and_a_disk_that_is_gone_are_counted(tmp_path: Path) -> None:
    assert store_at(tmp_path).write([sized(1, BYTES_MAX // 2), span(2)]) == 1
    (tmp_path / "file").write_bytes(b"")
    assert store_at(tmp_path / "file").write([span(1), span(2)]) == 2


def test_nobody_else_on_this_machine_reads_them(tmp_path: Path) -> None:
    store_at(tmp_path).write([span(1)])
    directory = tmp_path / DIRECTORY
    assert directory.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in directory.iterdir())
