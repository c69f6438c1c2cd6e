"""A model that makes embeddings: an answer without tokens."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.vllm.adapter_under_test import CHAT, running
from workers.engines.base import EngineFinished

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


async def test_embeddings(tiny_model: Path) -> None:
    async with running(tiny_model, engine_arg="enforce-eager runner=pooling convert=embed") as adapter:
        (finished,) = await adapter.events({"input": ["a river", "the sea"]})
        assert isinstance(finished, EngineFinished)
        assert finished.result is not None
        rows = msgspec.json.decode(finished.result)["data"]
        assert len(rows) == 2
        assert len(rows[0]["embedding"]) == 128
        assert finished.usage.prompt_tokens > 2
        assert (await adapter.failure(CHAT)).reason == "bad_request"
