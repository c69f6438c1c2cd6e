"""The report of a real run: its fields, its figures, and a page that needs nothing from anywhere."""

from __future__ import annotations

import json
import re
import sys

import msgspec
import pytest

from chaos.real.history import Asked, Fault, Line, Lived, Over, Settled
from chaos.real.page import SHOWN_MAX, page_of
from chaos.real.plots import PlotsUnavailable, timeline
from chaos.real.report import Finding, Report, as_json, report_of
from chaos.real.series import series_of, tokens_per_s
from tests.unit.chaos.chaos_history import AT, KINDS, history, judgement

FIELDS = {
    *(
        "format",
        "passed",
        "seed",
        "broker",
        "versions",
        "roles",
        "settings",
        "started_at",
        "duration_s",
        "streams",
    ),
    *(
        "requests",
        "faults",
        "faults_total",
        "stalls",
        "invariants",
        "violations",
        "tokens_per_s",
        "tokens_total",
    ),
    *(
        "processes",
        "restarts",
        "samples",
        "ends",
        "attempts",
        "missed",
        "not_serving",
        "queued_in_the_end",
        "settled_after_s",
    ),
}
LOST = Finding(
    "I4", "offset 12 <after> 8 & more", "t", "r", ["  1.000 s tok off 8", "  1.200 s tok <off> 12"]
)


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return history()


def made(lines: list[Line], *findings: Finding) -> Report:
    return report_of(lines, series_of(lines), judgement(*findings))


def test_the_fields_of_the_json_are_these(lines: list[Line]) -> None:
    told = json.loads(as_json(made(lines)))
    assert set(told) == FIELDS
    assert list(told["faults"][0]) == ["kind", "count", "active_s", "targets"]
    assert list(told["stalls"][0]) == ["kind", "streams", "p50_s", "p99_s", "max_s"]
    assert list(told["invariants"][0]) == ["name", "meaning", "checked", "violations"]
    assert msgspec.json.decode(as_json(made(lines, LOST)), type=Report).violations == [LOST]


def test_figures_are_counted_from_the_history(lines: list[Line]) -> None:
    report = made(lines)
    assert (report.seed, report.broker, report.versions, report.duration_s) == (
        1,
        "embedded",
        ["0.1.0"],
        120.0,
    )
    assert report.faults_total == 40 == sum(sum(row.targets.values()) for row in report.faults)
    assert {row.kind for row in report.faults} <= set(KINDS)
    assert report.tokens_total == 460 * 8 * 3
    assert (report.restarts, report.queued_in_the_end, report.settled_after_s) == (6, 0, 3.2)
    worker = report.processes[-1]
    assert (worker.process, worker.starts, worker.ends) == ("worker-2", 2, {"-9": 1, "0": 1})
    assert worker.rss_first_bytes < worker.rss_max_bytes


def test_a_run_that_was_cut_off_has_not_passed(lines: list[Line]) -> None:
    assert made(lines).passed
    assert not made([line for line in lines if not isinstance(line, Settled)]).passed


def test_faults_of_one_kind_at_the_same_time_are_active_once() -> None:
    def fault(number: int, begin: float, end: float) -> list[Line]:
        at = [("begin", begin), ("end", end)]
        return [Fault(AT + s, number, "pause", "worker-1", phase) for phase, s in at]  # type: ignore[arg-type]

    lines = [*history(duration_s=60, faults=0), *fault(1, 10, 20), *fault(2, 12, 15), *fault(3, 18, 25)]
    assert made(lines).faults[0].active_s == pytest.approx(15)


def test_a_fault_without_an_end_lasts_until_the_end_of_the_run() -> None:
    lines = [*history(duration_s=60, faults=0), Fault(AT + 20, 1, "kill", "worker-1", "begin")]
    assert made(lines).faults[0].active_s == pytest.approx(40)


def test_requests_in_flight_go_up_and_down() -> None:
    raw = msgspec.Raw(b"{}")
    lines: list[Line] = [Asked(AT + at, at, at, "stream", "t", "standard", "d", raw) for at in (0, 1, 2)]
    lines += [Over(AT + 4, 0, "complete"), Over(AT + 4, 0, "complete"), Over(AT + 5, 1, "broken")]
    assert series_of(lines).in_flight == [1, 2, 3, 3, 2, 1]


def test_tokens_before_and_after_the_faults_leave_out_what_came_after_the_load() -> None:
    series = series_of(history(duration_s=60, faults=1))
    idle = msgspec.structs.replace(
        series, tokens_stored=[*series.tokens_stored, *[0] * 60], asked=[*series.asked, *[0] * 60]
    )
    assert tokens_per_s(idle) == tokens_per_s(series)
    assert set(tokens_per_s(series)) == {"before", "during", "after"}


def test_a_check_that_looked_at_nothing_does_not_pass(lines: list[Line]) -> None:
    blind = msgspec.structs.replace(judgement(), invariants=[])
    report = report_of(lines, series_of(lines), blind)
    assert not report.passed
    assert "Nothing was checked" in page_of(report, "")


def test_a_process_that_does_not_serve_again_does_not_pass() -> None:
    lines = [*history(duration_s=60, faults=0)]
    gone = Lived(AT + 58, "edge-1", 7, "started")
    lines.insert(-1, gone)
    report = made(lines)
    assert (report.passed, report.not_serving) == (False, ["edge-1"])
    assert "edge-1 did not serve again" in page_of(report, "")


def test_the_page_tells_the_verdict_first(lines: list[Line]) -> None:
    picture = timeline(series_of(lines))
    good, bad = page_of(made(lines), picture), page_of(made(lines, LOST), picture)
    assert "Every promise was kept" in good
    assert "1 broken promises" not in good
    assert "Every promise was kept" not in bad
    assert bad.index('class="verdict broken"') < bad.index("<h2>")
    assert "offset 12 &lt;after&gt; 8 &amp; more" in bad
    assert "tok &lt;off&gt; 12" in bad
    for kind in KINDS:
        assert bad.count(kind) >= 3, "in the picture, among the faults and among the stalls"


def test_the_page_needs_nothing_from_anywhere(lines: list[Line]) -> None:
    page = page_of(made(lines, LOST), timeline(series_of(lines)))
    assert "://" not in page
    assert not re.search(r"<(script|link|img|iframe)\b|@import", page)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', page))
    assert not re.search(r"url\((?!#)", page)
    assert "prefers-color-scheme: dark" in page
    assert "#010203" not in page, "the stand-ins of the page's colours are replaced"


def test_more_stories_than_a_page_shows_are_counted(lines: list[Line]) -> None:
    page = page_of(made(lines, *[LOST] * (SHOWN_MAX + 7)), "")
    assert page.count("<details") == SHOWN_MAX
    assert "7 more are in report.json" in page


def test_without_matplotlib_it_says_what_to_install(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotsUnavailable, match=r"penstock\[bench\]"):
        timeline(series_of(lines))
