"""The broker is killed and stays away, or stands still: running streams go on, nothing ends falsely."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from bench.roles import paused
from bench.system import System
from bench.transcript import assert_whole, stream
from infra.broker import Broker
from infra.settings import load_settings
from tests.acceptance.conftest import StartSystem
from tests.acceptance.streams import RESULT_TIMEOUT_S, Streams
from tests.acceptance.tap import assert_clean

ITL_MS = 20
NEWCOMERS = 4
REFUSALS = ["503 broker_away", "503 outcome_unknown"]


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that nobody starts again but the test."""
    settings = load_settings({"store_dir": tmp_path, "broker_port": 0, "broker_monitor_port": 0})
    with Broker(settings) as broker:
        yield broker


def newcomer(system: System, prompt: str) -> str:
    """What becomes of a new request: "whole", or status and code of its error."""
    try:
        assert_whole(stream(system.url, prompt, 20), prompt, 20)
    except openai.APIStatusError as error:
        comes_again = "retry-after" in error.response.headers
        return f"{error.status_code} {error.code}{'' if comes_again else ' without Retry-After'}"
    return "whole"


@contextmanager
def gone(broker: Broker, how: str) -> Iterator[None]:
    """A broker that is killed and started again, or that stands still in between."""
    if how == "paused":
        with paused(broker.pid):
            yield
        return
    broker.kill()
    yield
    broker.start()


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("gap_s", "publish_timeout_s"), [(3.0, 2.0), pytest.param(5.0, 5.0, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("how", ["killed", pytest.param("paused", marks=pytest.mark.slow)])
def test_running_streams_go_on_and_new_ones_wait_or_are_told_to_come_again(
    how: str,
    gap_s: float,
    publish_timeout_s: float,
    own_broker: Broker,
    start_system: StartSystem,
    capsys: pytest.CaptureFixture[str],
) -> None:
    system = start_system(
        nats_url=own_broker.url, workers=2, itl_ms=ITL_MS, ttft_ms=5, publish_timeout_s=publish_timeout_s
    )
    streams = Streams(system, "gap", tokens=int((gap_s + 2) * 1000 / ITL_MS))
    with ThreadPoolExecutor(2 * NEWCOMERS) as pool:
        with gone(own_broker, how):
            early = [pool.submit(newcomer, system, f"early {number}") for number in range(NEWCOMERS)]
            time.sleep(gap_s)  # the length of the gap is what is tested
            if publish_timeout_s < gap_s:
                wait(early, RESULT_TIMEOUT_S)  # no broker comes back before they have their answers
        late = [pool.submit(newcomer, system, f"late {number}") for number in range(NEWCOMERS)]
        transcripts = streams.assert_all_whole()
        outcomes = Counter(future.result() for future in early + late)
    assert_whole(stream(system.url, "afterwards", 20), "afterwards", 20)
    with capsys.disabled():
        silence_s = max(transcript.stall_s for transcript in transcripts)
        print(
            f"\nbroker {how} for {gap_s:g} s: longest silence {silence_s:.1f} s, newcomers {dict(outcomes)}"
        )
    assert set(outcomes) <= {"whole", *REFUSALS}
    if publish_timeout_s < gap_s:
        assert sum(outcomes[refusal] for refusal in REFUSALS) >= NEWCOMERS, "they are not held for ever"
    logs = assert_clean(system.nats_url, streams.rids)
    assert {logs[rid].status for rid in streams.rids} == {"ok"}
    assert {log.status for log in logs.values()} <= {"ok", "cancelled"}, "an unknown outcome is cancelled"
    assert {log.strikes for log in logs.values()} == {0}
