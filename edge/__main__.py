"""`python -m edge`: one edge process."""

from __future__ import annotations

from edge.server import serve
from infra.lifecycle import run_role

if __name__ == "__main__":
    run_role("edge", serve)
