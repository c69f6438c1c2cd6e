"""`python -m workers`: one worker process."""

from __future__ import annotations

from infra.lifecycle import run_role
from workers.service import serve

if __name__ == "__main__":
    run_role("worker", serve)
