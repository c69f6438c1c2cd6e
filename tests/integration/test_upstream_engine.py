"""The engine alone against a scripted server: what it asks, what it closes, and how long it has patience."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from schemas.choices import Choice, add_deltas
from schemas.requests import RequestMeta
from tests.integration.scripted_upstream import (
    Asked,
    ScriptedUpstream,
    saying,
    scripted_upstream,
    telling,
    words_of,
)
from tests.integration.worker_under_test import until
from workers.engine_page import SaysNothing
from workers.engines import upstream as engine_module
from workers.engines import upstream_run
from workers.engines.base import (
    Capabilities,
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
)
from workers.engines.upstream import OpenAIEngine, OpenAIOptions, UpstreamRefused

KEY = "sk-a-secret"
SILENT_S = 1.5


class Driven:
    """An engine and what it told, per request."""

    def __init__(self, url: str, api_key: str = KEY) -> None:
        self.events: dict[str, list[EngineEvent]] = {}
        self.engine = OpenAIEngine(
            OpenAIOptions(url, "m", upstream_model="", api_key=api_key, parallel=8, max_tokens_default=0)
        )
        self._run = 0

    async def start(self) -> Capabilities:
        return await self.engine.start(lambda event: self.events.setdefault(event.key, []).append(event))

    def submit(self, key: str, **fields: object) -> None:
        self._run += 1
        body = json.dumps({"messages": [{"role": "user", "content": key}], **fields}).encode()
        self.engine.submit(EngineRequest(f"t.{key}", self._run, body, RequestMeta()))

    async def ended(self, key: str) -> EngineEvent:
        await until(lambda: self.told(key) and not isinstance(self.told(key)[-1], EngineOutput))
        return self.told(key)[-1]

    def told(self, key: str) -> list[EngineEvent]:
        return self.events.get(f"t.{key}", [])

    def text(self, key: str) -> str:
        choices: list[Choice] = []
        for event in self.told(key):
            if not isinstance(event, EngineFailed):
                add_deltas(choices, event.deltas)
        return choices[0].text if choices else ""


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as upstream:
        yield upstream


@pytest.fixture
async def driven(upstream: ScriptedUpstream) -> AsyncIterator[Driven]:
    driven = Driven(upstream.url)
    await driven.start()
    yield driven
    await driven.engine.stop()
    await driven.engine.wait()


@contextmanager
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Less patience, but more than a busy machine pauses."""
    monkeypatch.setattr(engine_module, "KNOCK_S", 0.05)
    monkeypatch.setattr(upstream_run, "SILENT_S", SILENT_S)
    yield


async def test_an_answer_goes_through(driven: Driven, upstream: ScriptedUpstream) -> None:
    driven.submit("a", max_tokens=20, model="as clients say")
    finished = await driven.ended("a")
    assert isinstance(finished, EngineFinished)
    (asked,) = upstream.asked
    assert driven.text("a") == "".join(words_of(asked.fields))
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (3, 20)
    assert asked.path == "/v1/chat/completions"
    assert asked.fields["model"] == "m"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert driven.engine.load().running == 0


async def test_embeddings_go_through(driven: Driven, upstream: ScriptedUpstream) -> None:
    result = b'{"object":"list","data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":2}}'

    async def embed(asked: Asked) -> None:
        assert asked.path == "/v1/embeddings"
        await asked.answer(200, result)

    upstream.then = embed
    driven.engine.submit(EngineRequest("t.e", 1, b'{"input":"x"}', RequestMeta()))
    finished = await driven.ended("e")
    assert isinstance(finished, EngineFinished)
    assert bytes(finished.result or b"") == result


async def test_a_bad_body_fails_after_submit_has_returned(driven: Driven) -> None:
    driven.engine.submit(EngineRequest("t.b", 1, b"{", RequestMeta()))
    assert driven.told("b") == []
    failed = await driven.ended("b")
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "bad_request"


async def test_cancel_closes_the_stream_within_100_ms(driven: Driven, upstream: ScriptedUpstream) -> None:
    gone: list[float] = []

    async def endless(asked: Asked) -> None:
        await asked.open()
        await asked.event(delta={"content": "word "})
        gone.append(await asked.gone())

    upstream.then = endless
    took: list[float] = []
    for number in range(10):
        key = f"c{number}"
        driven.submit(key)
        await until(lambda key=key: driven.told(key))  # type: ignore[misc]
        cancelled_at = time.monotonic()
        driven.engine.cancel(f"t.{key}")
        await until(lambda count=number: len(gone) > count)  # type: ignore[misc]
        took.append(gone[-1] - cancelled_at)
        assert len(driven.told(key)) == 1, "no event after a cancel"
    assert driven.engine.load().running == 0
    assert sorted(took)[len(took) // 2] < 0.1, took


async def test_cancel_before_the_answer_and_while_it_waits(
    driven: Driven, upstream: ScriptedUpstream
) -> None:
    gone: list[float] = []

    async def silent(asked: Asked) -> None:
        gone.append(await asked.gone())

    upstream.script = [silent, saying(503, retry_after="20")]
    driven.submit("a")
    await until(lambda: len(upstream.asked) == 1)
    driven.engine.cancel("t.a")
    await until(lambda: gone)
    driven.submit("b")
    await until(lambda: len(upstream.asked) == 2)
    driven.engine.cancel("t.b")
    driven.submit("b")
    assert isinstance(await driven.ended("b"), EngineFinished), "the same key again"
    assert driven.told("a") == []


async def test_connections_are_used_again(driven: Driven, upstream: ScriptedUpstream) -> None:
    async def chunked(asked: Asked) -> None:
        data = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        await asked.send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        )
        ports.append(asked.port)

    ports: list[int] = []
    upstream.then = chunked
    for key in ("a", "b", "c"):
        driven.submit(key)
        assert isinstance(await driven.ended(key), EngineFinished)
        await asyncio.sleep(0)
    assert len(set(ports)) == 1


async def test_a_slow_upstream_that_answers_knocks_is_waited_for(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(asked: Asked) -> None:
        await asyncio.sleep(2 * SILENT_S)
        await telling()(asked)

    upstream.then = slow
    with hasty(monkeypatch):
        driven = Driven(upstream.url)
        await driven.start()
        driven.submit("a")
        await until(lambda: upstream.asked)
        before = driven.engine.load()
        await until(lambda: driven.engine.load().steps > before.steps)
        assert isinstance(await driven.ended("a"), EngineFinished)
        assert len(upstream.asked) == 1
        await driven.engine.stop()


async def test_an_upstream_that_does_not_even_answer_knocks_is_asked_again_later(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def frozen(asked: Asked) -> None:
        await asked.gone()

    async def half(asked: Asked) -> None:
        await asked.open()
        await asked.event(delta={"content": "word "})
        await asked.gone()

    with hasty(monkeypatch):
        driven = Driven(upstream.url)
        await driven.start()
        upstream.knocked = frozen
        upstream.script = [half, frozen]
        driven.submit("half")
        await until(lambda: driven.told("half"))
        driven.submit("a")
        failed = await driven.ended("half")
        assert isinstance(failed, EngineFailed)
        assert failed.reason == "engine_error"
        assert isinstance(await driven.ended("a"), EngineFinished)
        assert len(upstream.asked) == 3
        await driven.engine.stop()


async def test_waiting_for_an_upstream_that_is_gone_is_no_hang(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hasty(monkeypatch):
        driven = Driven(upstream.url)
        await driven.start()
        await upstream.stop()
        driven.submit("a")
        took_s = []
        for _ in range(20):
            began, steps = time.monotonic(), driven.engine.load().steps
            await until(lambda steps=steps: driven.engine.load().steps > steps)  # type: ignore[misc]
            took_s.append(time.monotonic() - began)
        assert driven.told("a") == []
        assert driven.engine.load().running == 1
        assert sorted(took_s)[10] < 0.5, "a round of waiting is a step"
        await upstream.start()
        assert isinstance(await driven.ended("a"), EngineFinished)
        await driven.engine.stop()


async def test_it_is_ready_when_the_upstream_is(upstream: ScriptedUpstream) -> None:
    knocks: list[int] = []

    async def loading(asked: Asked) -> None:
        knocks.append(1)
        await saying(503 if len(knocks) < 3 else 200)(asked)

    upstream.knocked = loading
    await upstream.stop()
    driven = Driven(upstream.url)
    starting = asyncio.create_task(driven.start())
    await asyncio.sleep(0.3)
    assert not starting.done()
    await upstream.start()
    can = await asyncio.wait_for(starting, 20)
    assert len(knocks) == 3
    assert can.engine == "openai"
    assert can.revision.startswith(f"{upstream.url} m@")
    assert can.slots == 8
    await driven.engine.stop()


async def test_a_start_can_be_given_up(upstream: ScriptedUpstream) -> None:
    await upstream.stop()
    driven = Driven(upstream.url)
    starting = asyncio.create_task(driven.start())
    await asyncio.sleep(0.1)
    starting.cancel()
    await asyncio.wait([starting])
    await driven.engine.stop()
    await driven.engine.wait()


async def test_a_key_that_is_refused_ends_the_start(upstream: ScriptedUpstream) -> None:
    upstream.listed = saying(401, f"bad key {KEY}")
    driven = Driven(upstream.url)
    with pytest.raises(UpstreamRefused, match="upstream_api_key") as raised:
        await driven.start()
    assert KEY not in str(raised.value)
    await driven.engine.stop()


async def test_credentials_in_the_url_are_sent_and_not_shown(upstream: ScriptedUpstream) -> None:
    url = upstream.url.replace("://", "://me:secret@") + "/?version=1"
    driven = Driven(url, api_key="")
    can = await driven.start()
    assert can.revision.startswith(f"{upstream.url} m@")
    driven.submit("a")
    assert isinstance(await driven.ended("a"), EngineFinished)
    assert upstream.asked[0].headers["authorization"].startswith("Basic ")
    assert upstream.asked[0].path == "/v1/chat/completions?version=1"
    await driven.engine.stop()


async def test_the_servers_metrics_are_passed_on(driven: Driven, upstream: ScriptedUpstream) -> None:
    async def page(asked: Asked) -> None:
        assert asked.path == "/metrics", "beside the API, not below it"
        await asked.answer(200, b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 2\n")

    upstream.then = page
    [family] = await driven.engine.metrics()
    assert [(sample.name, sample.value) for sample in family.samples] == [("vllm:num_requests_running", 2)]
    upstream.then = saying(404)
    with pytest.raises(SaysNothing):
        await driven.engine.metrics()
