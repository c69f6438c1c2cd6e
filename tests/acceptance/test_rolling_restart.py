"""Every process but the broker is told to stop and is replaced, one after the other, under load: no request fails."""

from __future__ import annotations

from typing import Any

import pytest

from bench.load import Load
from bench.system import System
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean

TOKENS = 60


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(edges=2, schedulers=2, workers=2, itl_ms=10, ttft_ms=5)


def restart_all(system: System, load: Load) -> list[str]:
    """SIGTERM to each process, the next one once its successor serves and requests have been answered since."""
    restarted = []
    for process in [process for process in system.processes() if process.role != "broker"]:
        system.terminate(process)
        system.wait_replaced(process)
        wait_for_answers(system, load, load.whole + 4)
        restarted.append(process.name)
    return restarted


def wait_for_answers(system: System, load: Load, count: int) -> None:
    system.wait_until(lambda: load.whole >= count, "requests are answered")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("clients", "rounds", "options"),
    [
        pytest.param(8, 1, {}, id="short"),
        pytest.param(24, 3, {}, id="long", marks=pytest.mark.slow),
        # What the kernel gives to an edge between its last look at its queue and the close is reset: hence the retries.
        pytest.param(24, 3, {"fresh": True, "retries": 2}, id="new connections", marks=pytest.mark.slow),
    ],
)
def test_no_request_fails_while_everything_is_restarted(
    system: System, clients: int, rounds: int, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    load = Load(system.url, clients=clients, tokens=TOKENS, **options)
    wait_for_answers(system, load, clients)
    restarted = [name for _ in range(rounds) for name in restart_all(system, load)]
    counts = load.stop()
    with capsys.disabled():
        print(f"\n{len(restarted)} processes restarted under {sum(counts.values())} requests: {dict(counts)}")
    logs = assert_clean(system.nats_url, [outcome.rid for outcome in load.outcomes if outcome.rid])
    assert {log.strikes for log in logs.values()} == {0}
    assert counts == {"whole": sum(counts.values())}
