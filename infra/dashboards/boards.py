"""All dashboards."""

from __future__ import annotations

from infra.dashboards.inside import INFRASTRUCTURE, RECOVERY
from infra.dashboards.panels import Board
from infra.dashboards.service import CAPACITY, GATEWAY, MODELS, OVERVIEW

BOARDS: list[Board] = [OVERVIEW, GATEWAY, CAPACITY, MODELS, INFRASTRUCTURE, RECOVERY]
