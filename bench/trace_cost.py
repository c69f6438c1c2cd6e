"""What tracing costs: `python -m bench.trace_cost`.

One system for each way of tracing, side by side on the simulator: none at all, none but of requests that ask for it
(off), 1 % of the requests, all, and all with the broker's own word of them. Rounds of many short streams go to each of
them in turn, so that whatever else the machine does hits them alike. What counts is the processor time of each role per
request, as the kernel has it for all of a process's threads: it hardly depends on how busy the machine is, the
throughput does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.result_file import write_result
from bench.stream_load import Chat, run_load
from bench.system import SIMULATED, System

WAYS: dict[str, dict[str, Any]] = {
    "absent": {"trace_store_bytes_max": 0},
    "off": {"trace_sample_ratio": 0},
    "1 %": {"trace_sample_ratio": 0.01},
    "100 %": {"trace_sample_ratio": 1},
    "broker hops": {"trace_sample_ratio": 1, "trace_broker": True},
}
"""The ways of tracing, and their settings; where spans are made they are kept in the store."""

ROLES = ("edge", "scheduler", "worker", "broker")
TOKENS = 16
CLIENTS = 16
WARM_UP = 200

Costs = dict[str, list[float]]
"""By role, and in all of them: microseconds of processor time per request, a figure per round."""


def main() -> None:
    """Prints a line for each way and writes the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=500, help="of each round")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    costs: dict[str, Costs] = {way: defaultdict(list) for way in WAYS}
    with ExitStack() as stack:
        systems = {way: _start(stack, settings) for way, settings in WAYS.items()}
        for system in systems.values():
            _load(system, WARM_UP)
        for number in range(arguments.rounds):
            # Not always in the same order: the machine may get slower within a round.
            for way in sorted(WAYS, key=lambda way: (list(WAYS).index(way) + number) % len(WAYS)):
                _measure(systems[way], arguments.requests, costs[way])
    medians = {
        way: {what: statistics.median(figures) for what, figures in cost.items()}
        for way, cost in costs.items()
    }
    more = {way: _more(costs[way]["all"], costs["absent"]["all"]) for way in WAYS}
    for way, median in medians.items():
        told = ", ".join(f"{what} {figure:.0f}" for what, figure in median.items() if what != "requests/s")
        print(
            f"{way:11} {median['requests/s']:.0f} requests/s; us of CPU per request: {told} ({more[way]:+.1%})"
        )
    write_result(
        arguments.out,
        rounds=arguments.rounds,
        requests=arguments.requests,
        tokens=TOKENS,
        clients=CLIENTS,
        medians=medians,
        more_than_absent=more,
        samples=costs,
    )


def _start(stack: ExitStack, settings: dict[str, Any]) -> System:
    store = stack.enter_context(tempfile.TemporaryDirectory())
    system = System(Path(store), slots=CLIENTS * 2, itl_ms=1, ttft_ms=1, log_level="warning", **settings)
    stack.callback(system.stop)
    return system


def _measure(system: System, requests: int, costs: Costs) -> None:
    before = _cpu_us(system)
    requests_per_s = _load(system, requests)
    after = _cpu_us(system)
    for role in ROLES:
        costs[role].append((after[role] - before[role]) / requests)
    costs["all"].append((sum(after.values()) - sum(before.values())) / requests)
    costs["requests/s"].append(requests_per_s)


def _load(system: System, requests: int) -> float:
    """Requests per second."""
    chats = [Chat(f"tale {number}", TOKENS) for number in range(requests)]
    return requests / run_load(system.url, SIMULATED["model"], chats, clients=CLIENTS, sampling={}).wall_s


def _cpu_us(system: System) -> dict[str, float]:
    """Processor time of each role so far."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    used: dict[str, float] = dict.fromkeys(ROLES, 0.0)
    for process in system.processes():
        # After the name in parentheses, which may hold anything: utime and stime are the 12th and the 13th.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        used[process.role] += (int(fields[11]) + int(fields[12])) / ticks_per_s * 1e6
    return used


def _more(figures: list[float], absent: list[float]) -> float:
    """The median over the rounds of what it takes more: what one round has in common is not counted."""
    return statistics.median(mine / none - 1 for mine, none in zip(figures, absent, strict=True))


if __name__ == "__main__":
    main()
