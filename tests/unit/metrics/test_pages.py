"""Pages: their two formats, what they are packed into, and how several become one."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from infra.metrics.page import Page, labelled, merged, pack, render, unpack
from infra.metrics.tables import OTHER_MODEL, Labels, Table

OPEN = "application/openmetrics-text; version=1.0.0"


def table() -> Table:
    made = Table("test")
    made.counter("t_requests_total", "Requests.", "model").labels("m").inc(3)
    made.histogram("t_seconds", "Time.", buckets=(1, 2)).observe(1.5, {"trace_id": "ab"})
    gaps = made.intervals("t_gap_seconds", "Gaps.", buckets=(0.5, 1.0))
    for gap in (0.1, 0.5, 0.7, 9.0):
        gaps.of("m").observe(gap)
    made.told("t_steps_total", "Steps.").value = 7
    return made


def page() -> Page:
    return Page("test", table(), lambda: True)


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_text() -> None:
    body, content_type = asyncio.run(page().render("text/plain"))
    found = samples(body.decode())
    assert content_type.startswith("text/plain")
    assert found["t_requests_total[('model', 'm')]"] == 3
    assert found["t_steps_total[]"] == 7
    assert found["penstock_broker_connected[]"] == 1
    assert found["process_start_time_seconds[]"] > 0
    assert any(name.startswith("penstock_build_info[('role', 'test')") for name in found)
    assert not [name for name in found if "_created" in name]


def test_intervals_are_a_histogram() -> None:
    found = samples(asyncio.run(page().render(""))[0].decode())
    buckets = [
        found[f"t_gap_seconds_bucket[('le', '{le}'), ('model', 'm')]"] for le in ("0.5", "1.0", "+Inf")
    ]
    assert buckets == [2, 3, 4]
    assert found["t_gap_seconds_count[('model', 'm')]"] == 4
    assert found["t_gap_seconds_sum[('model', 'm')]"] == pytest.approx(10.3)


def test_exemplars_are_shown_to_who_takes_openmetrics() -> None:
    body, content_type = asyncio.run(page().render(OPEN))
    assert content_type.startswith("application/openmetrics-text")
    [shown] = [
        sample.exemplar
        for family in open_families(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert (shown.labels, shown.value) == ({"trace_id": "ab"}, 1.5)
    assert b"trace_id" not in asyncio.run(page().render(""))[0]


def test_what_is_packed_comes_out_the_same() -> None:
    families = asyncio.run(page().families())
    assert render(unpack(pack(families)), OPEN) == render(families, OPEN)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x01"])
def test_what_is_no_page_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data)


def test_pages_become_one() -> None:
    pages = [labelled(asyncio.run(page().families()), {"edge": name}) for name in ("a", "b")]
    text = render(merged(pages), "")[0].decode()
    assert text.count("# TYPE t_requests_total") == 1
    found = samples(text)
    assert [found[f"t_requests_total[('edge', '{name}'), ('model', 'm')]"] for name in ("a", "b")] == [3, 3]


def test_labels_are_bounded() -> None:
    labels = Labels(2)
    assert [labels.of(name) for name in ("a", "b", "c", "a", "d")] == [
        "a",
        "b",
        OTHER_MODEL,
        "a",
        OTHER_MODEL,
    ]


def test_an_interval_costs_less_than_a_microsecond() -> None:
    series = Table("test").intervals("t_seconds", "Time.", buckets=tuple(n / 10 for n in range(16))).of("m")
    best_s = min(_time_of(1000, lambda: series.observe(0.42)) for _ in range(20))
    assert best_s / 1000 < 1e-6


def _time_of(times: int, call: object) -> float:
    assert callable(call)
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - begun
