"""`python -m chaos.real`: breaks a system of real processes, checks what came of it, and writes a report."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

import structlog

from chaos.real import history
from chaos.real.checker import Evidence, examine
from chaos.real.disks import can_mount
from chaos.real.endings import interruptible
from chaos.real.judge import write_report
from chaos.real.plots import PlotsUnavailable
from chaos.real.report import Report
from chaos.real.run import HISTORY, Order, run
from chaos.real.schedule import kinds_for
from chaos.real.shape import BrokerKind, Shape, SystemFailed

EXIT_VIOLATED, EXIT_FAILED = 1, 2

BROKERS: dict[str, BrokerKind] = {"embedded": "embedded", "cluster": "cluster", "docker": "containers"}

SETTINGS = {"itl_ms": "20", "ttft_ms": "20", "step_s_max": "3"}
"""Fast enough for many requests, slow enough for faults to hit them; a hung engine is found in the time of a run."""

DISK_BYTES = 2 << 30
"""A broker's disk that can be full: as large as what streams reserve, which is not memory before it is written."""


def main() -> int:
    """The exit code: 1 if an invariant was broken, 2 if the run or its report could not be had."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.do(arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_FAILED
    except (SystemFailed, PlotsUnavailable, OSError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run(arguments: argparse.Namespace) -> int:
    # Witnesses and publishers lose their connections all the time: that is the point.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(interruptible(_ordered(arguments)))
    return _report(arguments)


async def _ordered(arguments: argparse.Namespace) -> None:
    settings = {**SETTINGS, **dict(one.split("=", 1) for one in arguments.set)}
    shape = Shape(
        broker=BROKERS[arguments.broker],
        edges=arguments.edges,
        schedulers=arguments.schedulers,
        workers=arguments.workers,
        settings=settings,
        disk_bytes=DISK_BYTES if await can_mount() else 0,
    )
    order = Order(
        seed=arguments.seed,
        duration_s=arguments.duration,
        shape=shape,
        out=arguments.out,
        kinds=_kinds(arguments.faults, shape),
        interval_s=arguments.fault_every,
        rate_per_s=arguments.rate,
        clients_max=arguments.clients,
        upgrade_from=arguments.upgrade_from,
    )
    await run(order)


def _check(arguments: argparse.Namespace) -> int:
    evidence = Evidence(history.read(arguments.history))
    violations = examine(evidence).violations
    for violation in violations:
        print(violation)
    if not evidence.settled:
        print("BROKEN: the run was cut off, what came of it in the end is not there")
    print(f"{len(violations)} broken promises")
    return 0 if evidence.settled and not violations else EXIT_VIOLATED


def _report(arguments: argparse.Namespace) -> int:
    report = write_report(arguments.out, arguments.out / HISTORY)
    _print(report)
    print(f"report: {arguments.out / 'report.html'}")
    return 0 if report.passed else EXIT_VIOLATED


def _print(report: Report) -> None:
    for finding in report.violations:
        print(
            "\n".join(
                [f"BROKEN {finding.invariant}: {finding.what}", *[f"    {line}" for line in finding.story]]
            )
        )
    if report.settled_after_s < 0:
        print("BROKEN: the run was cut off, what came of it in the end is not there")
    for process in report.not_serving:
        print(f"BROKEN: {process} did not serve again")
    for stalls in report.stalls:
        print(
            f"stalls {stalls.kind:26} p50 {stalls.p50_s:6.3f} s  p99 {stalls.p99_s:6.3f} s  of {stalls.streams}"
        )
    checked = ", ".join(f"{row.name} {row.checked}" for row in report.invariants)
    print(f"looked at: {checked}")
    print(
        f"seed {report.seed}, {report.broker}: {report.streams} streams, {report.tokens_total} tokens,"
        f" {report.faults_total} faults, {report.restarts} restarts, {len(report.violations)} broken promises"
    )


def _kinds(words: str, shape: Shape) -> list[str] | None:
    """Kinds of faults by their names or parts of them. Exits where one says nothing."""
    if not words:
        return None
    possible = kinds_for(shape)
    chosen: dict[str, None] = {}
    for word in words.split(","):
        found = [kind for kind in possible if word.strip() in kind]
        if not found:
            sys.exit(f"chaos: no fault here is called {word!r}: there are {', '.join(possible)}")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.real", description=__doc__)
    what = parser.add_subparsers(required=True)
    doing = what.add_parser("run", help="start a system, break it, check it, report")
    doing.set_defaults(do=_run)
    doing.add_argument("--seed", type=int, default=1, help="of workload and faults [%(default)s]")
    doing.add_argument(
        "--duration", type=float, default=120.0, metavar="S", help="of the faults [%(default)g]"
    )
    doing.add_argument("--broker", choices=BROKERS, default="embedded", help="one, or three [%(default)s]")
    doing.add_argument("--faults", default="", metavar="A,B", help="kinds, or parts of their names [all]")
    doing.add_argument("--fault-every", type=float, default=3.0, metavar="S", help="on average [%(default)g]")
    doing.add_argument(
        "--rate", type=float, default=10.0, metavar="N", help="new requests per second [%(default)g]"
    )
    for role, count in (("workers", 3), ("edges", 2), ("schedulers", 2)):
        doing.add_argument(f"--{role}", type=int, default=count, metavar="N", help="[%(default)d]")
    doing.add_argument(
        "--clients", type=int, default=200, metavar="N", help="at the same time at most [%(default)d]"
    )
    doing.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of all processes"
    )
    doing.add_argument(
        "--upgrade-from", default="", metavar="REV", help="begin with this revision's processes"
    )
    doing.add_argument(
        "--out", type=Path, default=Path(".penstock/chaos"), metavar="DIR", help="[%(default)s]"
    )
    checking = what.add_parser("check", help="check a history again")
    checking.set_defaults(do=_check)
    checking.add_argument("history", type=Path)
    reporting = what.add_parser("report", help="write the report of a run again")
    reporting.set_defaults(do=_report)
    reporting.add_argument("out", type=Path, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
