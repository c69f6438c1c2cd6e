"""Where the document is shown."""

from __future__ import annotations

import re

import httpx

from bench.system import System
from edge.openapi.__main__ import described


def test_the_document_and_its_page(system: System) -> None:
    with httpx.Client(base_url=system.url) as http:
        document = http.get("/openapi.json")
        page = http.get("/docs")
        assert document.headers["content-type"] == "application/json"
        assert document.json() == described(), "what is served is what is in docs/"
        assert page.headers["content-type"].startswith("text/html")
        found = re.search(r"url: '([^']+)'", page.text)
        assert found is not None
        assert http.get(str(page.url.join(found[1]))).content == document.content


def test_what_else_there_is_not(system: System) -> None:
    with httpx.Client(base_url=system.url) as http:
        assert http.get("/redoc").status_code == 404
        for path in ("/docs", "/openapi.json", "/health", "/metrics"):
            refused = http.post(path)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET"), path
        refused = http.put("/v1/chat/completions")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
