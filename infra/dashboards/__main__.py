"""`python -m infra.dashboards DIRECTORY` writes the dashboards as Grafana's provisioning reads them."""

from __future__ import annotations

import sys
from pathlib import Path

from infra.dashboards.boards import BOARDS
from infra.dashboards.grafana import as_json


def main() -> None:
    """Writes one file for each."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (directory / f"{board.uid}.json").write_text(as_json(board), encoding="utf-8")


if __name__ == "__main__":
    main()
