"""A broker of its own for every contract test, so that small limits and kills disturb nobody.

Every test runs twice: on nats-server, which decides what is true, and on the fake that simulated worlds trust.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chaos.broker.tcp import ServedBroker
from infra.broker import Broker
from infra.bus import Bus
from infra.settings import load_settings
from tests.contract.protocol import AnyBroker, Contract


@pytest.fixture(params=["nats-server", "fake"])
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyBroker]:
    if request.param == "fake":
        with ServedBroker() as fake:
            yield fake
        return
    settings = load_settings({"store_dir": tmp_path, "broker_port": 0, "broker_monitor_port": 0})
    with Broker(settings) as running:
        yield running


@pytest.fixture
async def contract(own_broker: AnyBroker) -> AsyncIterator[Contract]:
    failures: list[Exception] = []
    bus = await Bus.connect(own_broker.url, name="contract", fail=failures.append)
    contract = Contract(bus)
    await contract.streams()
    yield contract
    await bus.close()
    assert not failures
