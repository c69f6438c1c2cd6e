"""A measurement as a file: the command that made it, the machine it ran on, every sample."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from pathlib import Path


def write_result(out: Path | None, **fields: object) -> None:
    """Writes `fields` with the command line and the machine to `out`, as one JSON document; nowhere if None."""
    if out is None:
        return
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
    document = {"command": command(), "machine": machine, **fields}
    out.write_text(json.dumps(document) + "\n")


def command() -> str:
    """What was typed: `python -m bench.worker_kill --kills 200`."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name if module is not None else sys.argv[0]
    return " ".join(["python -m", name, *sys.argv[1:]])


def percentile(samples: list[float], percent: int) -> float:
    """The smallest sample that `percent` of them do not exceed (nearest rank, so it is one that was measured)."""
    assert samples, "no sample, no percentile"
    return sorted(samples)[max(0, -(-len(samples) * percent // 100) - 1)]


def seconds(samples: list[float]) -> str:
    """The line that is printed of samples in seconds."""
    median, high = statistics.median(samples), percentile(samples, 99)
    return f"p50 {median:.3f} s, p99 {high:.3f} s, max {max(samples):.3f} s ({len(samples)} samples)"
