"""What an engine says of itself, as its worker shows it."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from infra.metrics.page import merged
from workers import engine_page
from workers.engine_page import EnginePage, SaysNothing, read_page
from workers.engines.base import Engine
from workers.engines.simulator import Simulator, SimulatorOptions

PAGE = (
    "# TYPE vllm:x gauge\nvllm:x 3\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 9\n"
)

OPTIONS = SimulatorOptions(
    ttft_ms=1, itl_ms=1, prefill_tps=1000, context_tokens_max=1000, max_tokens_default=10
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is read in a thread, which a busy machine may keep waiting."""
    monkeypatch.setattr(engine_page, "PATIENCE_S", 20.0)
    monkeypatch.setattr(engine_page, "KEPT_S", 60.0)


class Speaking(Simulator):
    """An engine with metrics. `said` are answers; None: it hangs."""

    def __init__(self, *said: str | None) -> None:
        super().__init__(OPTIONS)
        self.said = list(said)
        self.asked = 0

    async def metrics(self) -> list[Metric]:
        self.asked += 1
        text = self.said.pop(0)
        if text is None:
            await asyncio.Event().wait()
        assert text is not None
        return await read_page(text)


def names(families: list[Metric]) -> list[str]:
    return [family.name for family in families]


async def test_a_servers_own_process_is_not_this_one() -> None:
    assert names(await EnginePage(Speaking(PAGE)).families()) == ["vllm:x"]


async def test_scrapes_are_no_load() -> None:
    engine = Speaking(PAGE, PAGE)
    page = EnginePage(engine)
    first, second = await page.families(), await page.families()
    assert engine.asked == 1
    first[0].samples = []
    assert names(second) == ["vllm:x"]
    assert second[0].samples, "what one page does to it is not the other's"


async def test_one_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_page, "PATIENCE_S", 0.05)
    engine = Speaking(None)
    page = EnginePage(engine)
    assert [await page.families() for _ in range(3)] == [[], [], []]
    assert engine.asked == 1, "it would hang again, and keep more"


async def test_an_engine_without_metrics_has_none() -> None:
    engine: Engine = Simulator(OPTIONS)
    assert await EnginePage(engine).families() == []


@pytest.mark.parametrize("text", ["<html>Not found</html>", '{"a": 1}', "x{"])
async def test_what_is_no_page_is_nothing(text: str) -> None:
    with pytest.raises(SaysNothing):
        await read_page(text)
    assert await EnginePage(Speaking(text)).families() == []


async def test_a_page_is_read() -> None:
    [family] = await read_page("# TYPE llamacpp:n gauge\nllamacpp:n 2.5\n")
    assert isinstance(family, Metric)
    assert family.type == GaugeMetricFamily("n", "").type
    assert [(sample.name, sample.value) for sample in family.samples] == [("llamacpp:n", 2.5)]


async def test_a_family_in_two_parts_stays_as_it_was_said() -> None:
    """Pages are merged in place; what is kept for the next one must not grow with each."""
    said = "# TYPE a:x gauge\na:x 1\n# TYPE a:y gauge\na:y 1\n# TYPE a:x gauge\n" + 'a:x{n="2"} 2\n'
    page = EnginePage(Speaking(said))
    sizes = [sum(len(family.samples) for family in merged([await page.families()])) for _ in range(3)]
    assert sizes == [3, 3, 3]
