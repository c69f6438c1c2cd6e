"""Where an edge shows its OpenAPI document: as JSON, and as a page to try it from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html

from edge.endpoint import Endpoint
from edge.openapi.document import document

DOCUMENT_PATH = "/openapi.json"
PAGE_PATH = "/docs"
NO_ICON = "data:,"
"""FastAPI's own would be asked of another site."""


def add_document(app: FastAPI, endpoints: Sequence[Endpoint]) -> None:
    """Serves both; the document is made when the first one asks for it."""
    made: list[bytes] = []

    @app.get(DOCUMENT_PATH, response_class=Response)
    async def openapi() -> Response:
        if not made:
            made.append(as_text(document(endpoints)).encode())
        return Response(made[0], media_type="application/json")

    @app.get(PAGE_PATH, response_class=Response)
    async def page() -> Response:
        # The path without its slash: behind a proxy the page may stand deeper.
        return get_swagger_ui_html(
            openapi_url=f".{DOCUMENT_PATH}", title="Penstock", swagger_favicon_url=NO_ICON
        )


def as_text(made: dict[str, Any]) -> str:
    """Stable from run to run, and fit to be compared line by line."""
    return json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
