"""Boards as Grafana's JSON, by Grafana's own builders."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, gauge, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType, DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from infra.dashboards.panels import Board, Panel, Query

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
PANEL_ROWS = 8
"""Height of a panel in Grafana's grid, of which a dashboard is 24 wide; a single value is half as high."""

TAG = "penstock"

AnyPanel = timeseries.Panel | stat.Panel | gauge.Panel | table.Panel


def as_json(board: Board) -> str:
    """The file that Grafana's provisioning reads."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.says)
        .tags([TAG])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .link(
            dashboard.DashboardLink("Penstock")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
        )
    )
    for row in board.rows:
        built = built.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            built = built.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _panel(panel: Panel) -> AnyPanel:
    drawn = _drawn(panel)
    drawn.title(panel.title).description(panel.says).unit(panel.unit).datasource(DATASOURCE)
    drawn.height(PANEL_ROWS // 2 if panel.look == "stat" else PANEL_ROWS).span(panel.width).no_value(
        "no data"
    )
    for index, query in enumerate(panel.queries):
        drawn.with_target(_target(query, index, newest=panel.look not in ("lines", "stacked")))
    return drawn


def _drawn(panel: Panel) -> AnyPanel:
    match panel.look:
        case "stat":
            return stat.Panel().graph_mode(common_models.BigValueGraphMode.AREA)
        case "gauge":
            assert panel.top is not None, "a dial ends somewhere"
            return gauge.Panel().min(0).max(panel.top)
        case "table":
            return table.Panel()
        case look:
            lines = (
                timeseries.Panel()
                .min(0)
                .line_width(1)
                .fill_opacity(10)
                .show_points(common_models.VisibilityMode.NEVER)
            )
            lines.legend(
                common.VizLegendOptions()
                .display_mode(common_models.LegendDisplayMode.LIST)
                .placement(common_models.LegendPlacement.BOTTOM)
                .show_legend(True)
            )
            if look == "stacked":
                lines.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL)).fill_opacity(
                    40
                )
            return lines


def _target(query: Query, index: int, *, newest: bool) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + index)).datasource(DATASOURCE)
    if query.legend:
        target.legend_format(query.legend)
    if newest:
        return target.instant().format(PromQueryFormat.TIME_SERIES)
    return target.range().exemplar("_bucket" in query.expr)
