"""What docs/reference_systems.md says of names is true."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from bench.system import System
from infra.setting_aliases import ALIASES, taken_from
from infra.settings import Settings
from tests.parity.asking import get, post

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs/reference_systems.md").read_text(encoding="utf-8")
ROWS = [
    f"{system}{number}"
    for system, count in (("A", 14), ("B", 15), ("C", 9), ("D", 16))
    for number in range(1, count + 1)
]
TESTS = [
    name
    for path in sorted(HERE.glob("test_[abcd].py"))
    for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
]


def table(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_row_is_there_and_names_its_test() -> None:
    rows = table("Rows")
    assert [row[0] for row in rows] == ROWS
    assert [row[3].strip("`") for row in rows] == TESTS, "one test for each row, in their order"
    assert all(row[3].startswith(f"`test_{row[0].lower()}_") for row in rows)


def test_every_variable_is_there() -> None:
    told = [
        (row[0].strip("`"), re.findall("`([a-z_]+)`", row[1])[0]) for row in table("Environment variables")
    ]
    assert told == [(variable, alias.setting) for variable, alias in ALIASES.items()]
    assert {setting for _, setting in told} <= set(Settings.model_fields)
    both = {"MODEL_NAME": "b", "MODEL_PATH": "a"}
    assert taken_from(both)["model"].variable == "MODEL_PATH", "the upper one holds"


def test_every_setting_that_is_named_exists() -> None:
    named = {name for row in table("Rows") for name in re.findall("`([a-z]+(?:_[a-z]+)+)`", row[2])}
    told_elsewhere = {
        *("request_id", "no_workers", "include_usage", "completion_tokens", "first_token_ms", "total_ms"),
        *(
            "tokens_per_second",
            "ttft_ms",
            "total_time_ms",
            "active_requests",
            "queue_depth",
            "generated_tokens",
        ),
    }
    metrics = {name for name in named if name.startswith("penstock_")}
    assert named - told_elsewhere - metrics <= set(Settings.model_fields)


def test_every_metric_that_is_named_is_scraped(roomy: System, worker_metrics_port: int) -> None:
    assert post(roomy, "/generate", {"prompt": "x", "max_tokens": 1}).status_code == 200
    assert post(roomy, "/generate", {}).status_code == 422
    pages = [httpx.get(f"http://127.0.0.1:{worker_metrics_port + n}/metrics").text for n in range(2)]
    text = get(roomy, "/metrics").text + "".join(pages)
    named = set(re.findall(r"`(penstock_\w+)`", PAGE))
    assert len(named) > 12
    missing = [
        name for name in sorted(named) if not re.search(rf"^{name}(_bucket|_count)?[{{ ]", text, re.MULTILINE)
    ]
    assert not missing


def test_every_endpoint_that_is_named_is_served(roomy: System) -> None:
    named = set(re.findall(r"`(GET|POST) (/[^`{]*)", PAGE))
    assert len(named) > 10
    for method, path in sorted(named):
        answer = httpx.request(method, f"{roomy.url}{path}x" if path.endswith("/") else roomy.url + path)
        assert answer.status_code in (200, 400, 404, 422), (method, path)
        # What is not there is told of in OpenAI's words.
        assert "there is nothing at" not in answer.text, (method, path)
