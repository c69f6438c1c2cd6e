"""The report of a run as one page of HTML that needs nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

from chaos.real.report import Finding, ProcessRow, Report

_TEMPLATE = Path(__file__).with_name("page.html")
MIB = 1 << 20
SHOWN_MAX = 50
"""Stories on the page; `report.json` has all of them."""


def page_of(report: Report, picture: str) -> str:
    """`picture` is an SVG element."""
    title = f"Chaos run, seed {report.seed}, {report.broker}: {'passed' if report.passed else 'FAILED'}"
    body = [
        _head(report),
        _verdict(report),
        _figures(report),
        _section("The run over time", f'<div class="wide picture">{picture}</div>'),
        _section("Faults", _faults(report)),
        _section(
            "Stalls: the longest silence within a stream, by the faults that were on in it", _stalls(report)
        ),
        _section("Invariants", _invariants(report)),
        _stories(report.violations),
        _section(
            "How requests ended for their clients", _table(["outcome", ">requests"], report.requests.items())
        ),
        _section("How logs ended", _table(["END", ">logs"], report.ends.items())),
        _section("Attempts", _table(["cause", ">leases"], report.attempts.items())),
        _section("Processes", _processes(report.processes)),
        _section("Settings that differ from their defaults", _settings(report)),
    ]
    return Template(_TEMPLATE.read_text()).substitute(title=escape(title), body="\n".join(body))


def _head(report: Report) -> str:
    at = datetime.fromtimestamp(report.started_at, UTC)
    roles = ", ".join(f"{count} {role}" for role, count in report.roles.items())
    words = f"{at:%Y-%m-%d %H:%M} UTC · seed {report.seed} · broker {report.broker} · {roles}"
    versions = f"version {' and '.join(report.versions)}"
    return f"<h1>Penstock, broken on purpose</h1><p class=soft>{escape(words)} · {escape(versions)}</p>"


def _verdict(report: Report) -> str:
    looked_at = sum(row.checked for row in report.invariants)
    if report.passed:
        word = "Every promise was kept"
        told = f"{looked_at:,} things were looked at under {report.faults_total:,} faults."
        if blind := [row.name for row in report.invariants if not row.checked]:
            told += f" Nothing there was to look at for {', '.join(blind)}."
    elif report.violations:
        word = f"{len(report.violations):,} broken promises"
        names = sorted({finding.invariant for finding in report.violations})
        told = f"Of {', '.join(names)}: their stories are below."
    elif report.not_serving:
        word = f"{', '.join(report.not_serving)} did not serve again"
        told = "Everything else was as promised."
    else:
        word, told = "Nothing was checked", "A run that nobody could look into does not pass."
    state = "kept" if report.passed else "broken"
    return f'<div class="verdict {state}"><strong>{escape(word)}</strong>{escape(told)}</div>'


def _figures(report: Report) -> str:
    rates = report.tokens_per_s
    figures = [
        (f"{report.duration_s:,.0f} s", "duration"),
        (f"{report.streams:,}", "streams"),
        (f"{sum(report.requests.values()):,}", "requests"),
        (f"{report.tokens_total:,}", "tokens stored"),
        (f"{report.faults_total:,}", "faults"),
        (f"{report.restarts:,}", "restarts of processes"),
        *((f"{rate:,.0f}", f"tokens/s {when} the faults") for when, rate in rates.items()),
    ]
    if report.queued_in_the_end >= 0:
        figures.append(
            (f"{report.queued_in_the_end:,}", f"queued {report.settled_after_s:.0f} s after the faults")
        )
    return (
        '<div class="figures">'
        + "".join(f"<div><b>{escape(figure)}</b>{escape(what)}</div>" for figure, what in figures)
        + "</div>"
    )


def _faults(report: Report) -> str:
    rows = [(row.kind, row.count, f"{row.active_s:.1f} s", _times(row.targets)) for row in report.faults]
    return _table(["kind", ">times", ">together", "whom"], rows)


def _stalls(report: Report) -> str:
    rows = [
        (row.kind, row.streams, *(f"{value:.3f} s" for value in (row.p50_s, row.p99_s, row.max_s)))
        for row in report.stalls
    ]
    return _table(["fault", ">streams", ">p50", ">p99", ">longest"], rows)


def _invariants(report: Report) -> str:
    rows = []
    for row in report.invariants:
        state = "bad" if row.violations else "good" if row.checked else "soft"
        word = f"{row.violations:,} broken" if row.violations else "kept" if row.checked else "not looked at"
        cells = [f"<td>{escape(row.name)}</td><td>{escape(row.meaning)}</td>"]
        cells.append(f"<td class=n>{row.checked:,}</td><td class={state}>{word}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "<tr><th></th><th>promise</th><th class=n>looked at</th><th></th></tr>"
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _stories(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    shown = "".join(
        f"<details{' open' if number == 0 else ''}><summary><span class=bad>{escape(finding.invariant)}</span>"
        f" {escape(finding.what)}</summary><pre>{escape(chr(10).join(finding.story))}</pre></details>"
        for number, finding in enumerate(findings[:SHOWN_MAX])
    )
    left = len(findings) - SHOWN_MAX
    more = f"<p class=soft>{left:,} more are in report.json.</p>" if left > 0 else ""
    return _section("Broken promises", shown + more)


def _processes(rows: Iterable[ProcessRow]) -> str:
    return _table(
        [
            "process",
            ">starts",
            "ended with",
            ">memory at first",
            ">at last",
            ">at most",
            ">open files at most",
        ],
        [
            (
                row.process,
                row.starts,
                _times(row.ends),
                *(_mib(size) for size in (row.rss_first_bytes, row.rss_last_bytes, row.rss_max_bytes)),
                row.files_max if row.files_max >= 0 else "",
            )
            for row in rows
        ],
    )


def _settings(report: Report) -> str:
    return _table(["setting", "value"], report.settings.items())


def _times(counts: Mapping[str, int]) -> str:
    return ", ".join(name if times == 1 else f"{name} ({times})" for name, times in counts.items())


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB" if size >= 0 else ""


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A head that begins with `>` is a column of numbers."""
    right = [head.startswith(">") for head in heads]
    top = "".join(
        f"<th{' class=n' if is_right else ''}>{escape(head.removeprefix('>'))}</th>"
        for head, is_right in zip(heads, right, strict=True)
    )
    lines = [
        "".join(
            f"<td{' class=n' if is_right else ''}>{escape(f'{cell:,}' if isinstance(cell, int) else str(cell))}</td>"
            for cell, is_right in zip(row, right, strict=True)
        )
        for row in rows
    ]
    if not lines:
        return "<p class=soft>None.</p>"
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
