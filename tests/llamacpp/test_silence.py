"""What the engine does while the library says nothing. A server in the library's place is silent as long as wanted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import xllamacpp

from infra.settings import load_settings
from schemas.requests import RequestMeta
from tests.llamacpp.running import CHAT, running
from workers.engines import llamacpp
from workers.engines.base import EngineRequest

POLL_S = 0.01


class SilentServer:
    """Runs requests without a word until `over` is set."""

    def __init__(self, _params: object) -> None:
        self.over = threading.Event()
        self.decoded = 0
        self.raises: Exception | None = None
        self.is_terminated = False

    def handle_chat_completions(self, _body: bytes, _callback: Callable[[bytes], bool]) -> None:
        self.over.wait(30)
        if self.raises is not None:
            raise self.raises

    def handle_metrics(self) -> str:
        return '{"error": "terminated"}' if self.is_terminated else f"llamacpp:n_decode_total {self.decoded}"


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xllamacpp, "Server", SilentServer)
    monkeypatch.setattr(llamacpp, "SILENCE_S", 0.02)


async def test_decodes_without_output_are_steps_and_none_are_none(model: Path) -> None:
    async with running(model) as engine:
        server = engine.engine._server
        answer = engine.submit(CHAT)
        for _ in range(3):
            before = engine.engine.load().steps
            server.decoded += 1
            async with asyncio.timeout(20):
                while engine.engine.load().steps == before:
                    await asyncio.sleep(POLL_S)
        stands_at = engine.engine.load()
        await asyncio.sleep(10 * llamacpp.SILENCE_S)
        assert engine.engine.load() == stands_at, "a server that answers but decodes nothing hangs"
        server.over.set()
        failed = (await engine.until(answer)).failed
        assert (failed.reason, failed.error) == ("engine_error", "llama.cpp ended the request early")


async def test_a_server_without_metrics_has_died(model: Path) -> None:
    engine = llamacpp.LlamaCpp(load_settings({"model": str(model)}))
    await engine.start(print)
    engine._server.is_terminated = True
    engine.submit(EngineRequest("tenant.rid", 1, msgspec.json.encode(CHAT), RequestMeta()))
    with pytest.raises(llamacpp.LlamaDied):
        await asyncio.wait_for(engine.wait(), 20)
    engine._server.over.set()
    await engine.stop()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad"), "bad_request"),
        (RuntimeError("bad"), "bad_request"),
        (MemoryError(), "engine_error"),
    ],
)
async def test_what_the_library_throws_before_a_word_is_about_the_body(
    model: Path, error: Exception, reason: str
) -> None:
    async with running(model) as engine:
        engine.engine._server.raises = error
        engine.engine._server.over.set()
        assert (await engine.ask(CHAT)).failed.reason == reason
