"""The simulator: one right text for every request, whatever happens on the way, and a clock like that of an engine."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from schemas.choices import Choice
from schemas.output import Delta
from schemas.requests import RequestMeta
from tests.unit.virtual_time import in_virtual_time
from workers.engines.base import (
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    Prefix,
)
from workers.engines.simulator import (
    Faults,
    InvalidRequest,
    Simulator,
    SimulatorOptions,
    prompt_of,
    reference_text,
    reference_tokens,
)
from workers.engines.simulator_text import NATURAL_TOKENS_MAX, NATURAL_TOKENS_MIN, WORDS, natural_length

DEADLINE_S = 10
FAST = SimulatorOptions(ttft_ms=0, itl_ms=0, prefill_tps=0, context_tokens_max=1000, max_tokens_default=64)


def prefix(ids: list[int], text: str) -> Prefix:
    """What a log with these tokens of the first choice tells."""
    return Prefix(list(ids), [], [Choice([text])] if text else [])


class Recorder:
    """A simulator and all it has said, with the loop's time and the engine's step."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.simulator = Simulator(options)
        self.events: list[tuple[float, EngineEvent]] = []
        self.steps_at: list[int] = []
        self.heard = asyncio.Event()
        self.answer: Callable[[EngineEvent], None] = lambda event: None

    def sink(self, event: EngineEvent) -> None:
        self.events.append((asyncio.get_running_loop().time(), event))
        self.steps_at.append(self.simulator.load().steps)
        self.heard.set()
        self.answer(event)

    def submit(
        self, key: str = "k", *, prefix: Prefix | None = None, header_max: int = 0, **body: Any
    ) -> None:
        if "prompt" not in body and "messages" not in body:
            body["prompt"] = "water"
        meta = RequestMeta(max_tokens=header_max)
        self.simulator.submit(EngineRequest(key, 1, msgspec.json.encode(body), meta, prefix))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.heard.clear()
                await self.heard.wait()

    async def finished(self, key: str = "k") -> EngineFinished | EngineFailed:
        def last() -> EngineEvent | None:
            ends = [
                event for _, event in self.events if event.key == key and not isinstance(event, EngineOutput)
            ]
            return ends[0] if ends else None

        await self.until(lambda: last() is not None)
        event = last()
        assert isinstance(event, EngineFinished | EngineFailed)
        return event

    def outputs(self, key: str = "k") -> list[tuple[list[int], list[Delta]]]:
        return [(e.ids, e.deltas) for _, e in self.events if e.key == key and not isinstance(e, EngineFailed)]

    def ids(self, key: str = "k") -> list[int]:
        return [token for ids, _ in self.outputs(key) for token in ids]

    def steps(self, key: str) -> list[int]:
        return [step for step, (_, event) in zip(self.steps_at, self.events, strict=True) if event.key == key]

    def text(self, key: str = "k") -> str:
        return "".join(delta.text for _, deltas in self.outputs(key) for delta in deltas)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    recorders: list[Recorder] = []

    async def begin(options: SimulatorOptions = FAST, **changes: Any) -> Recorder:
        fields = {name: getattr(options, name) for name in SimulatorOptions.__dataclass_fields__}
        recorder = Recorder(SimulatorOptions(**(fields | changes)))
        await recorder.simulator.start(recorder.sink)
        recorders.append(recorder)
        return recorder

    yield begin
    for recorder in recorders:
        await recorder.simulator.stop()


def test_a_token_is_a_function_of_prompt_seed_and_index() -> None:
    ids, texts = reference_tokens("water", 7, 200)
    assert reference_tokens("water", 7, 50) == (ids[:50], texts[:50])
    assert reference_tokens("water", 8, 50)[0] != ids[:50]
    assert reference_tokens("Water", 7, 50)[0] != ids[:50]
    assert reference_text("water", 7, 200) == " ".join(WORDS[token] for token in ids)
    assert len(set(ids)) > len(WORDS) / 2, "words are well mixed"


def test_the_words_try_encodings_out() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert any(len(word.encode()) > 2 * len(word) for word in WORDS)


def test_prompts_of_chats_and_completions() -> None:
    assert prompt_of(b'{"prompt": "a b"}') == "a b"
    assert prompt_of(b'{"prompt": ["a b"]}') == "a b"
    chat = {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
        ]
    }
    assert prompt_of(msgspec.json.encode(chat)) == "user: hi\nuser: x"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"{}", "prompt"),
        (b'{"prompt": 3}', "prompt"),
        (b'{"prompt": ["a", 1]}', "prompt"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"content": "x"}]}', "role"),
    ],
)
def test_a_wrong_body_is_refused_by_name(body: bytes, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        prompt_of(body)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"max_tokens": "x"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": ""}, "stop"),
        ({"penstock_fault": {"explode": 1}}, "penstock_fault"),
    ],
)
async def test_a_wrong_field_fails_the_request_and_names_itself(
    start: Any, body: dict[str, Any], named: str
) -> None:
    recorder = await start()
    recorder.submit(**body)
    failed = await recorder.finished()
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "bad_request"
    assert named in failed.error


async def test_max_tokens_makes_exactly_that_many(start: Any) -> None:
    recorder = await start()
    recorder.submit(prompt="one two three", max_tokens=300, seed=5)
    recorder.submit("newer", prompt="x", max_completion_tokens=7, max_tokens=9)
    end = await recorder.finished()
    assert isinstance(end, EngineFinished)
    assert end.finish_reasons == ["length"]
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 300)
    assert recorder.ids() == reference_tokens("one two three", 5, 300)[0]
    assert recorder.text() == reference_text("one two three", 5, 300)
    await recorder.finished("newer")
    assert recorder.ids("newer") == reference_tokens("x", 0, 7)[0]


async def test_without_a_limit_it_ends_by_itself(start: Any) -> None:
    recorder = await start()
    recorder.submit()
    end = await recorder.finished()
    assert isinstance(end, EngineFinished)
    assert end.finish_reasons == ["stop"]
    assert len(recorder.ids()) == natural_length("water", 0)
    assert NATURAL_TOKENS_MIN <= len(recorder.ids()) <= NATURAL_TOKENS_MAX


async def test_the_limit_of_the_headers_cuts_a_natural_end(start: Any) -> None:
    recorder = await start()
    recorder.submit(header_max=5)
    end = await recorder.finished()
    assert isinstance(end, EngineFinished)
    assert end.finish_reasons == ["length"]
    assert recorder.text() == reference_text("water", 0, 5)


async def test_more_than_the_context_is_refused(start: Any) -> None:
    recorder = await start(context_tokens_max=10)
    recorder.submit("long", prompt="a " * 10)
    recorder.submit(prompt="a b", max_tokens=9)
    for key in ("long", "k"):
        failed = await recorder.finished(key)
        assert isinstance(failed, EngineFailed)
        assert failed.reason == "context_length"


def _stops() -> list[str]:
    """Every stop string of three sizes at every position of a short output."""
    text = reference_text("water", 0, 12)
    return sorted({text[at : at + size] for at, size in itertools.product(range(len(text)), (1, 4, 17))})


async def test_a_stop_string_cuts_the_text_wherever_it_lies(start: Any) -> None:
    recorder = await start()
    text, stops = reference_text("water", 0, 40), _stops()
    for i, stop in enumerate(stops):
        recorder.submit(f"k{i}", stop=stop, max_tokens=40)
    for i, stop in enumerate(stops):
        end = await recorder.finished(f"k{i}")
        assert isinstance(end, EngineFinished)
        assert (end.finish_reasons, end.stop_reasons) == (["stop"], [stop])
        assert recorder.text(f"k{i}") == text[: text.index(stop)]


async def test_of_several_stop_strings_the_first_to_be_complete_counts(start: Any) -> None:
    recorder = await start()
    _, texts = reference_tokens("water", 0, 40)
    recorder.submit(stop=[texts[9], texts[4], "never"], max_tokens=40)
    await recorder.finished()
    full = "".join(texts)
    assert recorder.text() == full[: min(full.index(texts[9]), full.index(texts[4]))]


@pytest.mark.parametrize("stop", [None, "s", "never in it"])
async def test_a_continuation_from_every_prefix_equals_the_whole(start: Any, stop: str | None) -> None:
    recorder = await start()
    body = {"stop": stop, "max_tokens": 30}
    recorder.submit("whole", **body)
    whole = await recorder.finished("whole")
    assert isinstance(whole, EngineFinished)
    ids, text = recorder.ids("whole"), recorder.text("whole")
    seen_ids: list[int] = []
    seen_text = ""
    for i, (more_ids, deltas) in enumerate([([], []), *recorder.outputs("whole")]):
        seen_ids += more_ids
        seen_text += "".join(delta.text for delta in deltas)
        recorder.submit(f"k{i}", prefix=prefix(seen_ids, seen_text), **body)
        end = await recorder.finished(f"k{i}")
        assert isinstance(end, EngineFinished)
        assert seen_ids + recorder.ids(f"k{i}") == ids
        assert seen_text + recorder.text(f"k{i}") == text
        assert (end.finish_reasons, end.usage) == (whole.finish_reasons, whole.usage)


async def test_text_that_was_held_back_when_a_worker_died_is_emitted_first(start: Any) -> None:
    recorder = await start()
    ids, texts = reference_tokens("water", 0, 6)
    recorder.submit(prefix=prefix(ids[:4], "".join(texts[:2])), max_tokens=6)
    await recorder.finished()
    assert recorder.outputs()[0][1] == [Delta("".join(texts[2:5]))]


async def test_the_sink_may_cancel_and_submit(start: Any) -> None:
    recorder = await start()
    recorder.answer = lambda event: recorder.simulator.cancel(event.key)
    for i in range(3):
        recorder.submit(f"invalid{i}", prompt=i)
        recorder.submit(f"failing{i}", max_tokens=9, penstock_fault={"raise_at_token": 0})
    for i in range(3):
        assert isinstance(await recorder.finished(f"invalid{i}"), EngineFailed)
        assert isinstance(await recorder.finished(f"failing{i}"), EngineFailed)
    recorder.answer = lambda event: recorder.submit("next", max_tokens=2) if event.key == "k" else None
    recorder.submit(prompt=3)
    assert isinstance(await recorder.finished("next"), EngineFinished)


async def test_cancel_is_the_end_of_a_run(start: Any) -> None:
    recorder = await start(itl_ms=1)
    recorder.submit("gone", max_tokens=900, prompt="x")
    recorder.submit(prompt="y", max_tokens=40)
    await recorder.until(lambda: bool(recorder.ids("gone")))
    recorder.simulator.cancel("gone")
    count = len(recorder.ids("gone"))
    recorder.simulator.cancel("gone")
    await recorder.finished()
    assert len(recorder.ids("gone")) == count
    assert recorder.simulator.load().running == 0


@in_virtual_time
async def test_all_requests_step_together_and_prefills_do_not_wait_for_a_step() -> None:
    recorder = Recorder(replace(FAST, ttft_ms=5, itl_ms=200))
    await recorder.simulator.start(recorder.sink)
    recorder.submit("a", max_tokens=5)
    await recorder.until(lambda: len(recorder.ids("a")) == 2)
    recorder.submit("b", max_tokens=3)
    await recorder.finished("a")
    await recorder.finished("b")
    a, b = recorder.steps("a"), recorder.steps("b")
    assert b[0] not in a, "its first token came between two steps"
    assert b[1:] == a[2:4], "then it decodes in step with the others"
    await recorder.simulator.stop()


async def test_prefill_takes_time_and_counts_as_progress(start: Any) -> None:
    recorder = await start(ttft_ms=10, prefill_tps=100)
    begun = asyncio.get_running_loop().time()
    recorder.submit(prompt="a " * 10, max_tokens=1)
    await recorder.finished()
    assert recorder.events[0][0] - begun >= 0.109
    assert recorder.simulator.load().steps >= 1


async def test_slow_factor_stretches_time(start: Any) -> None:
    recorder = await start(ttft_ms=5, itl_ms=5)
    begun = asyncio.get_running_loop().time()
    recorder.submit(max_tokens=3, penstock_fault={"slow_factor": 4})
    await recorder.finished()
    assert recorder.events[-1][0] - begun >= 0.058


@pytest.mark.parametrize(
    ("fault", "named"), [("raise_at_token", "RuntimeError"), ("oom_at_token", "MemoryError")]
)
async def test_a_fault_fails_its_request_at_its_token_only(start: Any, fault: str, named: str) -> None:
    recorder = await start()
    recorder.submit("bad", max_tokens=9, penstock_fault={fault: 3})
    recorder.submit("mate", max_tokens=9)
    failed = await recorder.finished("bad")
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "engine_error"
    assert named in failed.error
    assert len(recorder.ids("bad")) == 3
    assert isinstance(await recorder.finished("mate"), EngineFinished)
    ids, texts = reference_tokens("water", 0, 4)
    recorder.submit("past", prefix=prefix(ids, "".join(texts)), max_tokens=9, penstock_fault={fault: 3})
    assert isinstance(await recorder.finished("past"), EngineFinished), (
        "the fault lies before the prefix's end"
    )


async def test_a_fault_of_the_settings_concerns_every_request(start: Any) -> None:
    recorder = await start(faults=Faults(raise_at_token=2))
    recorder.submit(max_tokens=9)
    assert isinstance(await recorder.finished(), EngineFailed)


async def test_a_hang_stops_the_steps_of_all(start: Any) -> None:
    recorder = await start()
    recorder.submit("mate", max_tokens=16)
    recorder.submit("bad", max_tokens=16, penstock_fault={"hang_at_token": 3})
    await recorder.until(lambda: len(recorder.ids("bad")) == 3)
    for _ in range(100):
        await asyncio.sleep(0)
    load = recorder.simulator.load()
    for _ in range(100):
        await asyncio.sleep(0)
    assert recorder.simulator.load() == load
    assert load.running == 2


def test_death_is_a_sigkill() -> None:
    program = """
import asyncio
from schemas.requests import RequestMeta
from workers.engines.base import EngineRequest
from workers.engines.simulator import Simulator, SimulatorOptions
async def main():
    simulator = Simulator(SimulatorOptions(0, 0, 0, 1000, 64))
    await simulator.start(lambda event: print(len(event.ids), flush=True))
    body = b'{"prompt": "x", "max_tokens": 9, "penstock_fault": {"die_at_token": 2}}'
    simulator.submit(EngineRequest("k", 1, body, RequestMeta()))
    await simulator.wait()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert done.returncode == -9, done.stderr
    assert done.stdout.split() == [b"1", b"1"]
