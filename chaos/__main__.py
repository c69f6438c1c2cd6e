"""`python -m chaos`: lives one simulated world again and tells its story, or runs many and says what they found."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from chaos.plan import plan_of
from chaos.runner import Summary, as_json, run_seed, run_seeds

EXIT_VIOLATED = 1


def main() -> int:
    """The exit code: 1 if a promise was broken."""
    arguments = _parser().parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed, arguments.without, arguments.only, story=arguments.story)
    first, last = arguments.seeds
    summary = run_seeds(first, last, jobs=arguments.jobs)
    _print(summary)
    if arguments.result is not None:
        arguments.result.write_bytes(msgspec.json.format(msgspec.json.encode(as_json(summary))) + b"\n")
    return EXIT_VIOLATED if summary.failed else 0


def _one(seed: int, without: list[int], only: list[int] | None, *, story: bool) -> int:
    plan = plan_of(seed)
    dropped = set(without)
    if only is not None:
        dropped |= {step.number for step in plan.steps} - set(only)
    result = run_seed(seed, dropped=dropped, with_story=story, checked=True)
    print(f"seed {seed}: {plan.shape}")
    for step in plan.steps:
        print(f"  {'-' if step.number in dropped else ' '} {step.at_s:7.3f}  {step}")
    for line in result.story:
        print(line)
    if result.violation is None:
        print(f"every promise was kept, {result.virtual_s:.1f} virtual seconds")
        return 0
    print(f"VIOLATION {result.violation[0]}: {result.violation[1]}")
    return EXIT_VIOLATED


def _print(summary: Summary) -> None:
    for name, count in summary.exercised.items():
        print(f"{count:9}  {name}")
    print(
        f"seeds {summary.first}-{summary.last}: {summary.seeds} worlds in {summary.wall_s:.1f} s"
        f" ({summary.seeds_per_s:.1f}/s), {summary.virtual_s:.0f} virtual seconds, {summary.failed} failed"
    )
    for failure in summary.failures:
        print(f"FAILED {failure.invariant}: {failure.what}\n  python -m chaos --seed {failure.seed} --story")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="live one world again")
    what.add_argument("--seeds", type=_range, metavar="A-B", help="run many worlds")
    parser.add_argument("--story", action="store_true", help="with --seed: print what happens, line by line")
    parser.add_argument(
        "--without", type=_numbers, default=[], metavar="N,N", help="with --seed: leave out these steps"
    )
    parser.add_argument(
        "--only", type=_numbers, metavar="N,N", help="with --seed: leave out all steps but these"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="with --seeds: processes [one per core]"
    )
    parser.add_argument("--result", type=Path, metavar="FILE", help="with --seeds: write the summary as JSON")
    return parser


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
