"""`python -m edge.openapi [FILE]`: the OpenAPI document of an edge with default settings, printed or written."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from edge.endpoint import Endpoint
from edge.endpoints import endpoints
from edge.openapi.document import document
from edge.openapi.pages import as_text
from edge.service import Edge
from infra.bus import Bus
from infra.settings import Settings


def table() -> list[Endpoint]:
    """The endpoints of an edge with default settings, which is connected to nothing: to look at, not to call."""

    async def make() -> list[Endpoint]:
        edge = Edge(Settings.model_construct(), Bus.unconnected(), name="described", fail=_fail)
        return endpoints(edge)

    return asyncio.run(make())


def described() -> dict[str, Any]:
    """Their document."""
    return document(table())


def _fail(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    text = as_text(described())
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
