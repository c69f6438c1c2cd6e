"""kill -9 of the vLLM worker at any token of any kind of request: `python -m bench.continuation --model FOLDER`.

One stream at a time through the official client. As soon as token k of it is in the log, its worker is stopped
(SIGSTOP: from then on it makes nothing) and killed (SIGKILL); how many tokens the log has then is the position of the
cut. Another worker goes on. What the client got in the end has to equal what it gets from an uninterrupted run: text,
reasoning, tool calls, logprobs, finish reasons, usage. `FOLDER` is made by `python -m tests.vllm.tiny_model FOLDER`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.answer import Answer, differences, stream
from bench.engine_cases import CASES, REASONING, Case
from bench.result_file import write_result
from bench.same_as_vllm import ready
from bench.system import System
from bench.transcript import client
from bench.vllm_server import START_TIMEOUT_S, penstock_flags
from infra.bus import Bus
from schemas import subjects
from schemas.output import End, Lease, decode_ctl, decode_tok

WORKERS = 4
"""One runs the request, one goes on, the others start again after the kills before, which takes each half a minute."""

SETTLE_S = 0.03
"""A record that left a worker before it was stopped has reached the log after this."""

TRIES_MAX = 4
"""Kills that are aimed at one position: the worker may be faster by a token than whoever watches its log."""

EVERY = "chat greedy"
EVERY_TOKENS = 40
SOME = [
    *(
        "chat seed",
        "chat penalties",
        "chat json_schema",
        "tools required",
        "chat stop strings",
        "chat logprobs",
    ),
    "chat n=2",
]
FEW = [
    *("chat min_tokens", "chat regex", "tools named", "tools auto, a call", "reasoning"),
    *("reasoning json_schema", "completion seed", "completion logprobs"),
]
"""What takes the same ways as one of the others."""


class Kill(NamedTuple):
    """One interrupted request: tokens in the log at the cut, seconds from the kill to the next piece at the client, and
    in what the answer differs from the uninterrupted one."""

    cut: int
    gap_s: float
    wrong: list[str]


def main() -> None:
    """Kills at `--every` positions of a greedy answer, at `--some` of each kind in SOME and `--few` of those in FEW."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--every", type=int, default=EVERY_TOKENS)
    parser.add_argument("--some", type=int, default=10)
    parser.add_argument("--few", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        flags = penstock_flags(arguments.model, reasoning=True)
        system = System(Path(store), START_TIMEOUT_S, workers=WORKERS, **flags)
        try:
            kills = {}
            plan = {EVERY: arguments.every} | dict.fromkeys(SOME, arguments.some)
            for name, count in (plan | dict.fromkeys(FEW, arguments.few)).items():
                # Where some positions do, a cut that came a token late is as good a one.
                tries = TRIES_MAX if name == EVERY else 1
                case = case_of(name)
                kills[name] = asyncio.run(kill_throughout(system, str(arguments.model), case, count, tries))
                print(row(name, kills[name]), flush=True)
                # After each kind: the whole takes long.
                write_result(arguments.out, kills=_plain(kills))
        finally:
            system.stop()
    print("\n".join([HEAD, *(row(name, of_case) for name, of_case in kills.items())]))


def _plain(kills: dict[str, list[Kill]]) -> dict[str, list[dict[str, object]]]:
    return {name: [kill._asdict() for kill in of_case] for name, of_case in kills.items()}


def case_of(name: str) -> Case:
    """By its name."""
    return next(case for case in [*CASES, *REASONING] if case.name == name)


async def kill_throughout(
    system: System, model: str, case: Case, positions: int, tries: int = TRIES_MAX
) -> list[Kill]:
    """Kills at `positions` places spread over the answer, over the first `EVERY_TOKENS` of it in the greedy case. Every
    kill counts, also one that came a token later than it was aimed at."""
    bus = await Bus.connect(system.nats_url, name="bench", fail=print)
    try:
        killer = Killer(bus)
        run = Runner(system, model, await asyncio.to_thread(_ready, system, model, case))
        whole = (await run(killer)).answer
        last = whole.completion_tokens - 1
        kills: list[Kill] = []
        for position in _spread(positions, min(last, EVERY_TOKENS) if case.name == EVERY else last):
            if position not in {kill.cut for kill in kills}:
                kills += await _kill_at(position, tries, system, killer, run, whole)
        return kills
    finally:
        await bus.close()


async def _kill_at(
    position: int, tries: int, system: System, killer: Killer, run: Runner, whole: Answer
) -> list[Kill]:
    """Until one hits."""
    kills: list[Kill] = []
    aim = position
    for _ in range(tries):
        await asyncio.to_thread(_wait_for_two, system, killer.killed_pid)
        killer.aim(system, aim)
        interrupted = await run(killer)
        if killer.cut is None:
            aim -= 1
            continue
        gap_s = next(at for at in interrupted.times if at > killer.killed_at) - killer.killed_at
        kills.append(Kill(killer.cut, gap_s, differences(interrupted.answer, whole)))
        if killer.cut == position:
            break
        aim = max(0, aim + position - killer.cut)
    return kills


def _wait_for_two(system: System, killed_pid: int) -> None:
    """Until one worker can run the request and another one go on: `up` may not have noticed the last kill yet."""
    told = f"the end of {killed_pid} is noticed"
    system.wait_until(lambda: killed_pid not in [process.pid for process in system.processes()], told)
    system.wait_ready("worker", 2)


class Run(NamedTuple):
    """An answer and when each chunk of it came."""

    answer: Answer
    times: list[float]


class Runner:
    """Asks for one case, again and again."""

    def __init__(self, system: System, model: str, case: Case) -> None:
        self._url = system.url
        self._api = case.api
        self._body: dict[str, Any] = {"model": model, **case.body}

    async def __call__(self, killer: Killer) -> Run:
        """Streams it to its end."""
        times: list[float] = []
        answer = await asyncio.to_thread(self._stream, times)
        await killer.done()
        return Run(answer, times)

    def _stream(self, times: list[float]) -> Answer:
        with client(self._url) as official:
            return stream(official, self._api, self._body, lambda _: times.append(time.monotonic()))


class Killer:
    """Watches the logs, and kills the worker that runs the only request when that has come to a token. `cut` is None
    after a request that ended first."""

    def __init__(self, bus: Bus) -> None:
        self.cut: int | None = None
        self.killed_at = 0.0
        self.killed_pid = 0
        self._aim: int | None = None
        self._pids: dict[str, int] = {}
        self._worker = ""
        self._tokens = 0
        self._over = False
        self._shot: asyncio.Task[None] | None = None
        bus.subscribe(subjects.LIVE_ALL, self._on_record)

    def aim(self, system: System, token: int) -> None:
        """At the next request, as soon as that many tokens are in its log."""
        self._pids = {process.id: process.pid for process in system.processes("worker")}
        self._aim, self.cut = token, None
        self._worker, self._tokens, self._over = "", 0, False

    async def done(self) -> None:
        """The request is over; the kill, if there was one, as well."""
        self._aim = None
        if self._shot is not None:
            await self._shot
            self._shot = None

    def _on_record(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        if subjects.is_ctl(subject):
            record = decode_ctl(payload)
            if isinstance(record, Lease):
                self._worker = record.worker
            self._over = isinstance(record, End)
        else:
            tok = decode_tok(payload)
            self._tokens = tok.off + len(tok.ids)
        is_due = self._aim is not None and self._worker and self._tokens >= self._aim and not self._over
        if is_due and self._shot is None:
            pid = next(pid for name, pid in self._pids.items() if self._worker.startswith(name))
            os.kill(pid, signal.SIGSTOP)
            self._shot = asyncio.create_task(self._kill(pid))

    async def _kill(self, pid: int) -> None:
        await asyncio.sleep(SETTLE_S)
        if self._over:
            os.kill(pid, signal.SIGCONT)
            return
        self.cut, self.killed_at, self.killed_pid = self._tokens, time.monotonic(), pid
        os.kill(pid, signal.SIGKILL)


HEAD = "| request | positions | kills | exact | gap p50 | gap max |\n|---|---|---|---|---|---|"


def row(name: str, kills: list[Kill]) -> str:
    """One of the table."""
    gaps = [kill.gap_s for kill in kills]
    cuts = sorted({kill.cut for kill in kills})
    exact = sum(not kill.wrong for kill in kills)
    return (
        f"| {name} | {len(cuts)} of {cuts[0]} to {cuts[-1]} | {len(kills)} | {exact}/{len(kills)} "
        f"| {statistics.median(gaps):.2f} s | {max(gaps):.2f} s |"
    )


def _ready(system: System, model: str, case: Case) -> Case:
    with client(system.url) as official:
        return ready(official, model, case)


def _spread(positions: int, last: int) -> list[int]:
    """From 1 to `last`; a single one is in the middle."""
    count = min(positions, last)
    if count == 1:
        return [(1 + last) // 2]
    return [1 + index * (last - 1) // (count - 1) for index in range(count)]


if __name__ == "__main__":
    main()
