"""Images reach a model that sees: what it says hangs on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.llamacpp.running import CHAT, Running, running
from tests.llamacpp.test_continuation import assert_goes_on
from tests.llamacpp.tiny_projector import PATCHES, build_projector, picture

RED, BLUE = picture(255, 0, 0), picture(0, 0, 255)


def shows(*parts: dict[str, Any]) -> dict[str, Any]:
    return {
        **CHAT,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}],
    }


@pytest.fixture
async def engine(model: Path, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(model, mmproj=str(build_projector(tmp_path / "eyes.gguf"))) as seeing:
        yield seeing


async def test_the_answer_hangs_on_the_image(engine: Running) -> None:
    blind, red, blue, red_again, both = [
        await engine.ask(body) for body in (shows(), shows(RED), shows(BLUE), shows(RED), shows(RED, BLUE))
    ]
    assert len({blind.text, red.text, blue.text, both.text}) == 4
    assert red_again.text == red.text
    prompt_tokens = blind.finished.usage.prompt_tokens
    assert red.finished.usage.prompt_tokens - prompt_tokens >= PATCHES
    assert both.finished.usage.prompt_tokens - prompt_tokens >= 2 * PATCHES


async def test_it_is_continued_like_any_other(engine: Running) -> None:
    body = {**shows(BLUE), "seed": 1}
    whole = await engine.ask(body)
    for cut in range(1, len(whole.outputs), len(whole.outputs) // 10):
        await assert_goes_on(engine, body, whole, cut)


async def test_what_is_no_image_is_a_mistake(engine: Running) -> None:
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    failed = (await engine.ask(shows(broken))).failed
    assert failed.reason == "bad_request"
    assert (await engine.ask(shows(RED))).finished


async def test_the_projector_is_part_of_the_revision(engine: Running, model: Path) -> None:
    async with running(model) as blind:
        assert blind.can.revision != engine.can.revision
