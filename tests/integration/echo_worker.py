"""A worker that knows the example engine of docs/engines.md, registered as that page says."""

from __future__ import annotations

from docs.example_engine import Echo
from infra.lifecycle import run_role
from workers.engines.registry import ENGINES
from workers.service import serve

if __name__ == "__main__":
    ENGINES["echo"] = lambda settings: Echo(settings.itl_ms / 1e3)
    run_role("worker", serve)
