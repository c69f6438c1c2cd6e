"""Each alarm by Prometheus's own rule tests: it comes when it should, and only then."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import edge.metrics
import scheduler.metrics
import workers.metrics
from infra.metrics.process import ROWS

OBSERVABILITY = Path(__file__).parent.parent.parent / "infra" / "deploy" / "observability"
RULES = OBSERVABILITY / "alerts.yml"
MINUTES = 30
"""Of 15 s steps: longer than any alarm waits."""

STEPS = MINUTES * 4


@dataclass(frozen=True)
class Alarm:
    """An alarm, series that must bring it and others that must not, its labels, and what it says."""

    name: str
    bad: dict[str, str]
    good: dict[str, str]
    says: str
    labels: dict[str, str] = field(default_factory=dict)
    severity: str = "warning"
    at: str = f"{MINUTES}m"


def always(value: float) -> str:
    """A series that stays."""
    return f"{value}x{STEPS}"


def late(value: float) -> str:
    """A series of a process that was started at the end."""
    return f"_x{STEPS - 20} {value}x20"


def growing(by: float) -> str:
    """A counter that grows by so much in each step."""
    return f"0+{by}x{STEPS}"


def histogram(metric: str, labels: str, *, below: str, above: str) -> dict[str, str]:
    """Observations that are all above one bucket's bound and within the next."""
    return {
        f'{metric}_bucket{{{labels}le="{below}"}}': always(0),
        f'{metric}_bucket{{{labels}le="{above}"}}': growing(10),
        f'{metric}_bucket{{{labels}le="+Inf"}}': growing(10),
    }


UP = 'up{job="penstock",role="edge",instance="a"}'
CONNECTED = 'penstock_broker_connected{role="worker",instance="a"}'
FORBIDDEN = 'penstock_permission_violations_total{role="worker",instance="a",direction="publish"}'
OK, BROKEN = 'penstock_requests_total{model="m",code="200"}', 'penstock_requests_total{model="m",code="500"}'
QUEUED, WORKERS = 'penstock_queued_requests{model="m",klass="standard"}', 'penstock_model_workers{model="m"}'
QUEUE_TIME = "penstock_request_queue_time_seconds"
FIRST_TOKEN = "penstock_time_to_first_token_seconds"

ALARMS = [
    Alarm(
        "PenstockTargetDown",
        {UP: always(0)},
        {UP: always(1)},
        "edge a cannot be scraped",
        {"job": "penstock", "role": "edge", "instance": "a"},
    ),
    Alarm(
        "PenstockNoLeader",
        {'penstock_leader{instance="a"}': always(0), 'penstock_leader{instance="b"}': always(0)},
        {'penstock_leader{instance="a"}': always(0), 'penstock_leader{instance="b"}': always(1)},
        "No scheduler leads, so no queued request reaches a worker",
        severity="critical",
    ),
    Alarm(
        "PenstockNoLeader",
        {UP: always(1)},
        {"penstock_leader": always(1)},
        "No scheduler leads, so no queued request reaches a worker",
        severity="critical",
    ),
    Alarm(
        "PenstockBrokerAway",
        {CONNECTED: always(0)},
        {CONNECTED: always(1)},
        "worker a has no connection to the broker",
        {"role": "worker", "instance": "a"},
        "critical",
    ),
    Alarm(
        "PenstockNoWorkers",
        {QUEUED: always(3), WORKERS: always(0)},
        {QUEUED: always(3), WORKERS: always(1)},
        "Requests for m wait and no worker serves it",
        {"model": "m"},
        "critical",
    ),
    Alarm(
        "PenstockServerErrors",
        {OK: growing(90), BROKEN: growing(10)},
        {OK: growing(1000), BROKEN: growing(5)},
        "10% of requests are answered with a 5xx",
        severity="critical",
    ),
    Alarm(
        "PenstockSaturated",
        {'penstock_saturation{model="m"}': always(1)},
        {'penstock_saturation{model="m"}': always(0.9)},
        "Nearly all slots of m are taken",
        {"model": "m"},
    ),
    Alarm(
        "PenstockQueueWaitLong",
        histogram(QUEUE_TIME, 'model="m",klass="standard",', below="40", above="80"),
        histogram(QUEUE_TIME, 'model="m",klass="batch",', below="40", above="80"),
        "Requests of class standard wait 1m 18s for a worker",
        {"model": "m", "klass": "standard"},
    ),
    Alarm(
        "PenstockRejecting",
        {'penstock_rejects_total{reason="queue_full"}': growing(1)},
        {'penstock_rejects_total{reason="rate_limit"}': growing(1)},
        "Clients are refused: queue_full",
        {"reason": "queue_full"},
    ),
    Alarm(
        "PenstockOutputNearlyFull",
        {"penstock_output_used_ratio": always(0.8)},
        {"penstock_output_used_ratio": always(0.7)},
        "80% of the room for output is taken; from 80 % on edges refuse",
        severity="critical",
    ),
    Alarm(
        "PenstockWorkersDying",
        {'penstock_workers_lost_total{reason="silent"}': growing(0.2)},
        {'penstock_workers_lost_total{reason="silent"}': growing(0.05)},
        "8 workers were lost in ten minutes",
    ),
    Alarm(
        "PenstockLeaderFlapping",
        {"penstock_leader_changes_total": growing(0.2)},
        {"penstock_leader_changes_total": growing(0.05)},
        "The leadership changed 8 times in ten minutes",
    ),
    Alarm(
        "PenstockPoison",
        {'penstock_poisoned_total{instance="a"}': growing(0.1)},
        {'penstock_poisoned_total{instance="a"}': always(3)},
        "Requests were given up: they brought down each worker that took them",
    ),
    Alarm(
        "PenstockAppendsSlow",
        histogram("penstock_append_latency_seconds", "", below="0.5", above="1"),
        histogram("penstock_append_latency_seconds", "", below="0.001", above="0.005"),
        "The broker takes 995ms to store tokens",
    ),
    Alarm(
        "PenstockFirstTokenSlow",
        histogram(FIRST_TOKEN, 'model="m",', below="5.0", above="7.5"),
        histogram(FIRST_TOKEN, 'model="m",', below="0.1", above="0.25"),
        "First tokens of m take 7.375s",
        {"model": "m"},
    ),
    Alarm(
        "PenstockForbidden",
        {FORBIDDEN: growing(0.1)},
        {FORBIDDEN: always(3)},
        "The broker forbids worker a a subject that it wants",
        {"role": "worker", "instance": "a"},
    ),
    Alarm(
        "PenstockForbidden",
        {FORBIDDEN: late(3)},
        {FORBIDDEN: late(0)},
        "The broker forbids worker a a subject that it wants",
        {"role": "worker", "instance": "a"},
    ),
]


@pytest.mark.parametrize("alarm", ALARMS, ids=[alarm.name for alarm in ALARMS])
def test_an_alarm_comes_when_it_should_and_only_then(alarm: Alarm, promtool: str, tmp_path: Path) -> None:
    expected = {
        "exp_labels": {"severity": alarm.severity, **alarm.labels},
        "exp_annotations": {"summary": alarm.says},
    }
    checks = [check(alarm, alarm.bad, [expected]), check(alarm, alarm.good, [])]
    path = tmp_path / "test.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": checks})
    )
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check(alarm: Alarm, series: dict[str, str], expected: list[Any]) -> dict[str, Any]:
    return {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": alarm.at, "alertname": alarm.name, "exp_alerts": expected}],
    }


def test_every_alarm_has_a_test() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"]} == {alarm.name for alarm in ALARMS}


def test_an_alarm_asks_for_labels_that_its_metric_has() -> None:
    """Else all are one, and what it says has a hole."""
    tables = (edge.metrics.TABLE, scheduler.metrics.TABLE, workers.metrics.TABLE)
    labels = {row.name: {*row.labels} for row in [*ROWS, *(row for table in tables for row in table.rows)]}
    of_scrapes = {"job", "role", "instance", "le"}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            names = {name.removesuffix("_bucket") for name in re.findall(r"penstock_\w+", rule["expr"])}
            had = of_scrapes.union(*(labels[name] for name in names))
            asked = re.findall(r"by \(([\w, ]+)\)", rule["expr"])
            said = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
            assert {word for words in asked for word in words.split(", ")} | {*said} <= had, rule["alert"]


def test_every_alarm_has_a_section_that_says_what_to_do() -> None:
    page = (OBSERVABILITY.parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    _, _, alarms = page.partition("\n## Alarms\n")
    sections = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=\n#|\Z)", alarms, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(dict.fromkeys(alarm.name for alarm in ALARMS))
    for name, says in sections.items():
        assert len(says.split()) > 30, name
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= headings


def test_prometheus_takes_the_configuration(promtool: str) -> None:
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        done = subprocess.run(
            [promtool, *command], cwd=OBSERVABILITY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
