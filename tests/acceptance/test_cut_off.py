"""A worker that is cut off from the broker and comes back: as the only worker, and as one of two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.cut import Cut
from bench.roles import RoleProcess
from bench.system import System
from bench.transcript import assert_whole, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.streams import Streams, wait_known
from tests.acceptance.tap import assert_clean

ITL_MS = 20
STREAMS = 16
STALL_S = 0.5
PATIENT = {"ack_wait_s": 10, "worker_silent_s": 3}
IMPATIENT = {"ack_wait_s": 1.5, "worker_silent_s": 0.8, "leader_ttl_s": 1, "leader_interval_s": 0.2}
"""Every clock that a cut starts runs out in it, also when it is short."""


class CutOff:
    """A system whose worker `far` reaches the broker through a network that can be cut; `near` others do not."""

    def __init__(
        self, start_system: StartSystem, stack: ExitStack, folder: Path, near: int, settings: dict[str, float]
    ) -> None:
        self._stack = stack
        self._log_path = folder / "far.log"
        self._settings = {"itl_ms": ITL_MS, "ttft_ms": 5, **settings}
        self.system: System = start_system(workers=near, beside=self._start_far, **self._settings)

    def _start_far(self, nats_url: str) -> None:
        self.network = self._stack.enter_context(Cut(nats_url))
        self.far = RoleProcess(
            "worker", "far", self._log_path, wait=False, nats_url=self.network.nats_url, **self._settings
        )
        self._stack.callback(self.far.stop)
        self.far.wait_ready()

    def cut_for(self, cut_s: float) -> None:
        self.network.cut()
        time.sleep(cut_s)  # the length of the cut is what is tested, there is nothing to wait for
        self.network.heal()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("near", "cut_s", "settings"),
    [
        pytest.param(1, 2.5, IMPATIENT, id="one of two, short"),
        pytest.param(0, 2.5, IMPATIENT, id="the only worker, short", marks=pytest.mark.slow),
        pytest.param(1, 20.0, PATIENT, id="one of two, 20 s", marks=pytest.mark.slow),
        pytest.param(0, 20.0, PATIENT, id="the only worker, 20 s", marks=pytest.mark.slow),
    ],
)
def test_a_worker_cut_off_and_back_doubles_nothing_and_loses_nothing(
    start_system: StartSystem,
    stack: ExitStack,
    tmp_path: Path,
    near: int,
    cut_s: float,
    settings: dict[str, float],
) -> None:
    parts = CutOff(start_system, stack, tmp_path, near, settings)
    tokens = int((cut_s + 1) * 1000 / ITL_MS)
    wait_known(parts.system, workers=near + 1)
    streams = Streams(parts.system, "cut", count=STREAMS, tokens=tokens)
    parts.cut_for(cut_s)
    after = stream(parts.system.url, "after the cut", 20)
    assert_whole(after, "after the cut", 20)
    transcripts = streams.assert_all_whole()
    logs = assert_clean(parts.system.nats_url, [after.rid, *streams.rids])
    assert {log.status for log in logs.values()} == {"ok"}
    assert {log.strikes for log in logs.values()} == {0}
    stalled = sum(transcript.stall_s > STALL_S for transcript in transcripts)
    attempts = sorted(len(log.leases) for log in logs.values())
    print(f"cut {cut_s:g} s, {near} other worker(s): {stalled} of {STREAMS} streams stalled, ")
    print(f"longest silence {max(t.stall_s for t in transcripts):.1f} s, leases per request {attempts}")
    assert stalled > 0, "somebody ran on the worker that was cut off"
