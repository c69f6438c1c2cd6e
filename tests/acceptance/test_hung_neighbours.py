"""One request that makes every engine hang: it ends, and its neighbours on the same engine go on unharmed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from bench.system import System
from bench.transcript import MODEL, assert_whole, client, expected, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean

HEALTHY = 6
HEALTHY_TOKENS = 200


def hang(system: System, prompt: str, at_token: int) -> tuple[str, openai.APIError]:
    """Streams a request that makes every engine hang: the text it got, and the error that ended it."""
    pieces: list[str] = []
    with client(system.url) as official:
        chunks = official.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=20,
            stream=True,
            extra_body={"penstock_fault": {"hang_at_token": at_token}},
        )
        with pytest.raises(openai.APIError) as ended:
            pieces.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    return "".join(pieces), ended.value


@pytest.mark.timeout(120)
def test_a_hung_engine_loses_its_work_and_its_neighbours_go_on_unharmed(
    start_system: StartSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    system = start_system(workers=2, itl_ms=10, ttft_ms=5, step_s_max=0.8)
    workers_before = {process.id for process in system.processes("worker")}
    started = time.monotonic()
    with ThreadPoolExecutor(HEALTHY + 1) as pool:
        neighbours = [
            pool.submit(stream, system.url, f"neighbour {n}", HEALTHY_TOKENS) for n in range(HEALTHY)
        ]
        hung = pool.submit(hang, system, "hang", 3)
        text, error = hung.result(60)
        ended_s = time.monotonic() - started
        for number, neighbour in enumerate(neighbours):
            assert_whole(neighbour.result(60), f"neighbour {number}", HEALTHY_TOKENS)
    assert text == expected("hang", 3)
    assert error.code == "poison"
    workers_after = {process.id for process in system.processes("worker")}
    assert workers_after != workers_before, "a worker whose engine hangs is started again"
    system.wait_ready("worker", 2)
    logs = assert_clean(system.nats_url, [])
    (poison,) = [log for log in logs.values() if log.status == "error"]
    with capsys.disabled():
        print(f"\nhung engine: ended after {ended_s:.1f} s, attempts of the culprit {poison.causes}")
    assert {log.status for log in logs.values() if log is not poison} == {"ok"}
    assert {log.strikes for log in logs.values() if log is not poison} == {0}
