"""What edges of one address tell each other of their metrics, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from edge.registry import Registry
from edge.scrape import Scrape
from infra.bus import Bus
from infra.metrics.page import unpack
from infra.settings import load_settings

Heard = Callable[[str, str, bytes, bytes], None]


class Wire:
    """As much of a bus as a scrape needs."""

    connected = True

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self.listeners: list[Heard] = []
        self.said: list[bytes] = []

    def subscribe(self, _subject: str, heard: Heard) -> None:
        self.listeners.append(heard)

    def publish(self, _subject: str, payload: bytes) -> bool:
        self.said.append(payload)
        return True


async def answers(max_payload: int) -> list[bytes]:
    failures: list[Exception] = []
    wire = Wire(max_payload)
    bus: Any = wire
    registry = Registry(model_seen_s=60, cold_start="queue")
    scrape = Scrape(load_settings({"edges": "2"}), cast("Bus", bus), "e1", registry, failures.append)
    scrape.start()
    wire.listeners[-1]("", "inbox", b"", b"e2")
    async with asyncio.timeout(10):
        await asyncio.gather(*scrape._answers)
    assert not failures
    return wire.said


async def test_a_sibling_is_told() -> None:
    (said,) = await answers(1 << 20)
    name, _, families = said.partition(b"\n")
    assert name == b"e1"
    assert "penstock_build_info" in {family.name for family in unpack(families)}


async def test_a_page_that_the_broker_does_not_carry_is_left_out() -> None:
    """It would end the connection, and with it every stream of this edge."""
    assert await answers(1000) == []
