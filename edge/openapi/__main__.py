"""`python -m edge.openapi [FILE]`: the OpenAPI document of an edge with default settings, printed or written."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from edge.endpoints import endpoints
from edge.openapi.document import document
from edge.openapi.pages import as_text
from edge.service import Edge
from infra.bus import Bus
from infra.settings import Settings


def described() -> dict[str, Any]:
    """The document. The edge it is asked of is connected to nothing."""

    async def describe() -> dict[str, Any]:
        bus = Bus.unconnected()
        return document(endpoints(Edge(Settings.model_construct(), bus, name="described", fail=_fail)))

    return asyncio.run(describe())


def _fail(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    text = as_text(described())
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
