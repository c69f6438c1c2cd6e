"""The tables of metrics, and the page that is made from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.metrics_page import REFERENCES, TABLES, page
from infra.metrics import process
from infra.metrics.tables import Table

ROOT = Path(__file__).parents[3]
REPEATED = {"penstock_slots", "penstock_free_slots"}
"""What the leader says and edges repeat."""

BOUNDED = {
    *("model", "code", "reason", "quantile", "state", "klass", "cause", "kind", "outcome"),
    *("stream_name", "consumer_name", "server_id", "version", "role"),
}


def test_the_page_is_as_the_code_says() -> None:
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == page(), "make docs"


def test_each_name_is_of_one_role() -> None:
    names = [row.name for table in TABLES for row in table.rows] + [row.name for row in process.ROWS]
    assert {name for name in names if names.count(name) > 1} == REPEATED


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.role)
def test_names_and_labels_keep_to_the_rules(table: Table) -> None:
    for row in table.rows:
        assert re.fullmatch(r"(penstock|jetstream|gnatsd)(_[a-z]+)+", row.name), row
        assert (row.kind == "counter") == row.name.endswith("_total") or not row.name.startswith(
            "penstock"
        ), row
        assert set(row.labels) <= BOUNDED, row
        assert row.meaning.endswith("."), row


def test_names_elsewhere_lead_to_names_here() -> None:
    ours = {row.name for table in TABLES for row in table.rows}
    told = {name for rows in REFERENCES.values() for _, here in rows for name in re.findall(r"`(\w+)", here)}
    assert {name for name in told if name.startswith("penstock_")} <= ours
