"""What the engine makes of requests: outputs, ends, errors, cancels, signs of life."""

from __future__ import annotations

import asyncio
import base64
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.settings import SettingsError, load_settings
from tests.llamacpp.running import CHAT, running
from tests.llamacpp.tiny_gguf import CONTEXT_TOKENS, END
from workers.engines.llamacpp import LlamaCpp
from workers.engines.llamacpp_params import BATCH_TOKENS

LONG = {**CHAT, "max_tokens": 8000, "ignore_eos": True}
CANCELS = 5
CANCELLED_S_MAX = 0.1
"""Of the fastest: the others measure what else the machine does. A slot that is not freed takes a second."""


def asks(*content: dict[str, Any]) -> dict[str, Any]:
    return {**CHAT, "messages": [{"role": "user", "content": list(content)}]}


async def test_capabilities_tell_the_file_and_the_settings(model: Path) -> None:
    async with running(model, parallel=3, ctx_size=512) as engine:
        can = engine.can
        assert (can.engine, can.name, can.slots) == ("llamacpp", "tiny-llama", 3)
        assert can.context_tokens_max == can.max_tokens_default == 512
        first = can.revision
    async with running(model, ctx_size=1 << 20, max_tokens_default=64) as engine:
        assert engine.can.context_tokens_max == CONTEXT_TOKENS, "a model has no more than it was trained for"
        assert engine.can.max_tokens_default == 64
        assert engine.can.revision != first
        assert engine.can.tokenizer == can.tokenizer


async def test_every_slot_has_the_whole_context(model: Path) -> None:
    async with running(model, parallel=4, ctx_size=1024) as engine:
        prompt = {**CHAT, "messages": [{"role": "user", "content": "river " * 400}], "max_tokens": 400}
        answers = [engine.submit(prompt, rid=f"r{number}") for number in range(4)]
        for answer in answers:
            assert (await engine.until(answer)).finished.usage.completion_tokens == 400


async def test_pieces_make_the_text_and_each_has_a_token(model: Path) -> None:
    async with running(model) as engine:
        answer = await engine.ask(CHAT)
        assert len(answer.outputs) > 40
        assert answer.finished.finish_reasons == ["length"]
        assert answer.finished.usage.completion_tokens == 80
        again = await engine.ask({**CHAT, "stream": False, "max_completion_tokens": 20})
        assert answer.text.startswith(again.text)
        assert again.finished.usage.completion_tokens == 20


async def test_the_limit_of_the_meta_holds_where_the_body_names_none(model: Path) -> None:
    unlimited = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    async with running(model, max_tokens_default=30) as engine:
        assert (await engine.ask(unlimited, max_tokens=12)).finished.usage.completion_tokens == 12
        assert (await engine.ask(unlimited)).finished.usage.completion_tokens == 30
        assert (await engine.ask({**unlimited, "n_predict": 50})).finished.usage.completion_tokens == 30


async def test_what_samples_without_a_seed_hangs_on_the_request_alone(model: Path) -> None:
    sampled = {**CHAT, "temperature": 1.2}
    async with running(model) as engine, running(model) as another:
        first = await engine.ask(sampled, rid="aaaa")
        assert (await another.ask(sampled, rid="aaaa")).text == first.text
        assert (await engine.ask(sampled, rid="bbbb")).text != first.text
        seeded = await engine.ask({**sampled, "seed": 11}, rid="aaaa")
        assert (await another.ask({**sampled, "seed": 11}, rid="bbbb")).text == seeded.text


async def test_batch_mates_change_nothing(model: Path) -> None:
    async with running(model, parallel=4) as engine:
        bodies = [{**CHAT, "temperature": number / 2, "seed": number} for number in range(4)]
        alone = [(await engine.ask(body)).text for body in bodies]
        together = [engine.submit(body, rid=f"r{number}") for number, body in enumerate(bodies)]
        for answer in together:
            await engine.until(answer)
        assert [answer.text for answer in together] == alone


async def test_logprobs_are_told_as_asked(model: Path) -> None:
    async with running(model) as engine:
        bare = await engine.ask({**CHAT, "logprobs": True})
        with_top = await engine.ask({**CHAT, "logprobs": True, "top_logprobs": 3})
        legacy = await engine.ask({"prompt": "Hello", "max_tokens": 8, "temperature": 0, "logprobs": 0})
        none = await engine.ask(CHAT)
    assert "".join(logprob.token for logprob in bare.choices[0].logprobs) == bare.text
    assert all(not logprob.top for logprob in bare.choices[0].logprobs + legacy.choices[0].logprobs)
    for logprob in with_top.choices[0].logprobs:
        assert len(logprob.top) == 3
        assert logprob.logprob == max(top.logprob or -math.inf for top in logprob.top), "greedy"
    assert not none.choices[0].logprobs


async def test_a_call_of_several_choices_tells_each(model: Path) -> None:
    async with running(model, parallel=2) as engine:
        both = await engine.ask({**CHAT, "n": 2, "temperature": 1, "max_tokens": 30})
        assert both.finished.finish_reasons == ["length", "length"]
        assert both.finished.usage.completion_tokens == 60
        assert {owner for output in both.outputs for owner in output.of} == {1}
        refused = await engine.ask({**CHAT, "n": 3})
        assert refused.failed.reason == "bad_request"
        assert "'n'" in refused.failed.error


async def test_more_choices_than_slots_wait_for_each_other(model: Path) -> None:
    async with running(model, parallel=2) as engine:
        bodies = [{**CHAT, "n": 2, "seed": number, "max_tokens": 30} for number in range(5)]
        answers = [engine.submit(body, rid=f"r{number}") for number, body in enumerate(bodies)]
        for answer in answers:
            assert (await engine.until(answer)).finished.usage.completion_tokens == 60


async def test_embeddings(embedder: Path, model: Path) -> None:
    async with running(embedder) as engine:
        answer = await engine.ask({"input": ["river", "stone and water"]})
        assert answer.finished.result is not None
        told = msgspec.json.decode(answer.finished.result)
        assert [len(row["embedding"]) for row in told["data"]] == [64, 64]
        assert answer.finished.usage.prompt_tokens == told["usage"]["prompt_tokens"] > 0
        assert (await engine.ask({"input": 5})).failed.reason == "bad_request"
    async with running(model) as engine:
        assert (await engine.ask({"input": "river"})).failed.reason == "bad_request"


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


@pytest.mark.parametrize(
    ("body", "reason", "word"),
    [
        ({**CHAT, "messages": 5}, "bad_request", "messages"),
        ({**CHAT, "temperature": "hot"}, "bad_request", "temperature"),
        ({**CHAT, "max_tokens": "many"}, "bad_request", "max_tokens"),
        ({**CHAT, "messages": [{"role": "user", "content": "x " * 9000}]}, "context_length", "context"),
        (
            {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "bad_request",
            "unrecognized type",
        ),
        ({**CHAT, "grammar": "root ::= ("}, "bad_request", "grammar"),
        (
            asks({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}),
            "bad_request",
            "image input is not supported",
        ),
        (asks({"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}), "bad_request", "data: URI"),
        (asks({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), "bad_request", "data: URI"),
        (b"{", "bad_request", "JSON"),
        ({}, "bad_request", "no prompt"),
    ],
)
async def test_mistakes_are_the_client_s(model: Path, body: Any, reason: str, word: str) -> None:
    async with running(model) as engine:
        failed = (await engine.ask(body)).failed
        assert failed.reason == reason
        assert word in failed.error
        assert (await engine.ask({**CHAT, "max_tokens": 3})).finished, "the engine lives on"


async def test_a_cancelled_request_leaves_its_only_slot_at_once(model: Path) -> None:
    loop, took_s = asyncio.get_running_loop(), []
    async with running(model, parallel=1) as engine:
        for number in range(CANCELS):
            cancelled = await engine.until(engine.submit(LONG, rid=f"long{number}"), outputs=5)
            engine.engine.cancel(f"tenant.long{number}")
            count, at = len(cancelled.outputs), loop.time()
            following = await engine.until(engine.submit(CHAT, rid=f"next{number}"), outputs=1)
            took_s.append(loop.time() - at)
            await engine.until(following)
            assert (len(cancelled.outputs), cancelled.end) == (count, None)
        assert engine.engine.load().running == 0
        engine.engine.cancel("tenant.unknown")
    assert min(took_s) < CANCELLED_S_MAX


async def test_llama_cpp_itself_stops_running_what_is_cancelled(model: Path) -> None:
    loop, took_s = asyncio.get_running_loop(), []
    async with running(model, parallel=2) as engine:
        server = engine.engine._server

        def processing() -> str:
            lines = str(server.handle_metrics()).splitlines()
            return next(line for line in lines if line.startswith("llamacpp:requests_processing "))

        for number in range(CANCELS):
            await engine.until(engine.submit(LONG, rid=f"long{number}"), outputs=5)
            assert processing().endswith(" 1")
            engine.engine.cancel(f"tenant.long{number}")
            at = loop.time()
            async with asyncio.timeout(20):
                while not processing().endswith(" 0"):
                    await asyncio.sleep(0.001)
            took_s.append(loop.time() - at)
    assert min(took_s) < CANCELLED_S_MAX


async def test_a_long_prefill_makes_steps(model: Path) -> None:
    async with running(model, parallel=1) as engine:
        before = engine.engine.load()
        # It still runs when its first token is heard of, whatever else the machine does.
        long = {**LONG, "messages": [{"role": "user", "content": "river " * 6000}], "max_tokens": 1000}
        answer = await engine.until(engine.submit(long), outputs=1)
        load = engine.engine.load()
        assert load.running == 1
        assert load.steps - before.steps >= 6000 // BATCH_TOKENS
        assert load.last_step_at > before.last_step_at
        await engine.until(answer)


async def test_stopping_drops_what_runs(model: Path) -> None:
    async with running(model, parallel=1) as engine:
        dropped = await engine.until(engine.submit(LONG), outputs=3)
        waiting = asyncio.ensure_future(engine.engine.wait())
    await asyncio.wait_for(waiting, 20)
    assert dropped.end is None


async def test_a_natural_end_is_a_stop(model: Path) -> None:
    async with running(model) as engine:
        ended = await engine.ask({**CHAT, "max_tokens": 2000, "logit_bias": [[END, 26.0]]})
        assert ended.finished.finish_reasons == ["stop"]
        assert ended.finished.usage.completion_tokens < 2000


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model": "/nowhere/x.gguf"}, "No such file"),
        ({"model": __file__}, "not a GGUF file"),
        ({"tensor_split": "a,b"}, "tensor_split"),
        ({"mmproj": "/nowhere/p.gguf"}, "mmproj"),
    ],
)
async def test_what_cannot_be_loaded_is_a_bad_setting(
    model: Path, settings: dict[str, str], word: str
) -> None:
    engine = LlamaCpp(load_settings({"model": str(model), "threads": 1, **settings}))
    with pytest.raises(SettingsError, match=word):
        await engine.start(print)
    await engine.stop()


async def test_metrics_are_its_servers(model: Path) -> None:
    async with running(model) as engine:
        await engine.ask(CHAT)
        names = [family.name for family in await engine.engine.metrics()]
        assert names
        assert all(name.startswith("llamacpp:") for name in names)
