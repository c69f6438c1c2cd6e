"""Every expression of every panel, and of every alarm, against a real Prometheus that scraped a real run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bench.system import System
from infra.dashboards.boards import BOARDS
from infra.dashboards.grafana import as_json
from infra.dashboards.panels import Query
from tests.observability.scraper import Prometheus

OBSERVABILITY = Path(__file__).parent.parent.parent / "infra" / "deploy" / "observability"
DASHBOARDS = OBSERVABILITY / "grafana" / "dashboards"
RULES = OBSERVABILITY / "alerts.yml"
INTERVAL = "10m"
"""What Grafana puts for `$__rate_interval`: here at least the length of the run and of these tests."""

SHOWN_WITHIN_S = 20.0
TARGETS = 6

pytestmark = pytest.mark.timeout(300)  # the first one waits for the run

DCGM = {
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_POWER_USAGE",
}
"""Of the exporter's default counters: github.com/NVIDIA/dcgm-exporter, etc/default-counters.csv."""

QUERIES = [
    pytest.param(query, id=f"{board.uid.removeprefix('penstock-')}: {panel.title} {query.legend}".strip())
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
    for query in panel.queries
]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, prometheus: str) -> Iterator[Prometheus]:
    """Scraped while all happened that a panel shows."""
    system = System(
        tmp_path_factory.mktemp("store"), edges=2, schedulers=2, workers=2, slots=4, tenant_queue_max=70
    )
    try:
        targets = system.store / "metrics_targets.json"
        with Prometheus(prometheus, tmp_path_factory.mktemp("prometheus"), targets, RULES) as running:
            running.wait_for_scrapes(TARGETS)
            live(system, running)
            yield running
    finally:
        assert system.stop() == 0


def live(system: System, prometheus: Prometheus) -> None:
    """Load, refusals, errors, a killed worker, a killed leader, a cancel, a client that leaves, a resume, poison."""
    with ThreadPoolExecutor(100) as clients, many_connections(system.url) as http:
        asked = [clients.submit(ask, http, {"max_tokens": 20 + number % 40}) for number in range(60)]
        asked += [clients.submit(ask, http, {"penstock_fault": {"crash_at_token": 0}})]
        asked += [clients.submit(leave, system.url), clients.submit(cancel, system.url)]
        asked += [clients.submit(resume, system.url), clients.submit(ask, http, {"temperature": 9})]
        prometheus.wait_for("sum(penstock_worker_running_requests) > 0", "workers run")
        system.kill(system.processes("worker")[0])
        assert 200 in [one.result() for one in asked]
        leader = prometheus.wait_for("penstock_leader == 1", "one leads")[0]["metric"]["process"]
        system.kill(next(process for process in system.processes("scheduler") if process.name == leader))
        # More at once than the tenant may have, and each long enough that all of them are there at the same time.
        asked = [clients.submit(ask, http, {"max_tokens": 60}) for _ in range(100)]
        statuses = [one.result() for one in asked]
        assert 200 in statuses
        assert 429 in statuses
    # Twice scraped after the last thing happened.
    prometheus.wait_for("sum(penstock_leader) == 1", "one leads again")
    for _ in range(2):
        prometheus.wait_for_scrapes(TARGETS)


def body(more: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "penstock-sim",
        "stream": True,
        "messages": [{"role": "user", "content": "a river"}],
        **more,
    }


def many_connections(url: str) -> httpx.Client:
    """For all threads: a client for each would cost so much that not all of them would ask at the same time."""
    return httpx.Client(base_url=url, limits=httpx.Limits(max_connections=200), timeout=60)


def ask(http: httpx.Client, more: dict[str, Any]) -> int:
    return http.post("/v1/chat/completions", json=body(more)).status_code


def leave(url: str) -> int:
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body({"max_tokens": 400}), timeout=60
    ) as answer:
        next(answer.iter_lines())
    return 0


def cancel(url: str) -> int:
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body({"max_tokens": 400}), timeout=60
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        rid = answer.headers["x-request-id"]
        httpx.delete(f"{url}/v1/requests/{rid}", timeout=10).raise_for_status()
        assert list(lines)
    return 0


def resume(url: str) -> int:
    headers = {"x-penstock-on-disconnect": "detach"}
    given = body({"max_tokens": 40})
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=given, headers=headers, timeout=60
    ) as answer:
        rid = answer.headers["x-request-id"]
        seen = next(line for line in answer.iter_lines() if line.startswith("id:"))
    again = {"last-event-id": seen.removeprefix("id:").strip()}
    httpx.get(f"{url}/v1/requests/{rid}/stream", headers=again, timeout=60).raise_for_status()
    return 0


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_shows_something(query: Query, scraped: Prometheus) -> None:
    expr = query.expr.replace("$__rate_interval", INTERVAL)
    found = scraped.query(expr)
    if query.source == "gpu":
        assert set(re.findall(r"DCGM_\w+", query.expr)) <= DCGM
        assert not found, "there is no GPU here, so what is this?"
        return
    # A failed scrape takes a target's series away until the next.
    deadline = time.monotonic() + SHOWN_WITHIN_S
    while not any(series["value"][1] != "NaN" for series in found):
        assert time.monotonic() < deadline, f"{found}: 0 / 0 is nothing to see"
        time.sleep(0.2)
        found = scraped.query(expr)


def test_every_target_is_up(scraped: Prometheus) -> None:
    scraped.wait_for_scrapes(TARGETS)
    up = {series["metric"]["role"]: series for series in scraped.query("sum by (role) (up)")}
    assert {role: int(series["value"][1]) for role, series in up.items()} == {
        "edge": 2,
        "scheduler": 2,
        "worker": 2,
    }


def test_no_rule_fails(scraped: Prometheus) -> None:
    rules = [rule for group in scraped.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert rules
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def test_the_metrics_of_every_alarm_are_there(scraped: Prometheus) -> None:
    """One that asks for a name nobody shows would never ring."""
    there = set(scraped.get("/api/v1/label/__name__/values"))
    for rule in rules_of():
        assert set(re.findall(r"\b(?:penstock|jetstream)_\w+", rule["expr"])) <= there, rule["alert"]


def test_no_alarm_waits_for_more_than_its_histogram_can_tell(scraped: Prometheus) -> None:
    """A quantile is never above the largest bound of a bucket."""
    checked = 0
    for rule in rules_of():
        found = re.search(r"(\w+_bucket).* > ([0-9.]+)$", " ".join(rule["expr"].split()))
        if found is not None:
            bounds = scraped.query(f'max by (le) ({found[1]}{{le!="+Inf"}})')
            assert max(float(bound["metric"]["le"]) for bound in bounds) > float(found[2]), rule["alert"]
            checked += 1
    assert checked >= 3


def rules_of() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("board", BOARDS, ids=[board.uid for board in BOARDS])
def test_the_files_are_what_the_code_says(board: Any) -> None:
    path = DASHBOARDS / f"{board.uid}.json"
    assert path.read_text() == as_json(board), "run: make docs"
    drawn = json.loads(path.read_text())
    panels = [panel for panel in drawn["panels"] if panel["type"] != "row"]
    assert [target["expr"] for panel in panels for target in panel["targets"]] == [
        q.expr for q in board.queries
    ]
    assert all(panel["description"] and panel["title"] for panel in panels)
    assert {panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels} == {True}


def test_there_is_a_file_for_each_board_and_no_other() -> None:
    assert {path.stem for path in DASHBOARDS.glob("*.json")} == {board.uid for board in BOARDS}
