"""What an upstream tells of itself."""

from __future__ import annotations

import json
from typing import Any

from workers.engines.base import Capabilities
from workers.engines.upstream_card import (
    CONTEXT_TOKENS_DEFAULT,
    capabilities,
    find,
    models_of,
    not_ready,
    tells_ids,
)

VLLM = {"id": "m", "object": "model", "created": 1, "owned_by": "vllm", "root": "/m", "max_model_len": 64}
LLAMA = {"id": "/x.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8192, "n_vocab": 300, "size": 9}}


def can(*models: dict[str, Any], name: str = "m", max_tokens_default: int = 0) -> Capabilities:
    model = find(models_of(json.dumps({"object": "list", "data": models}).encode()), name)
    return capabilities("http://h/v1", name, model, slots=4, max_tokens_default=max_tokens_default)


def test_what_vllm_and_llama_server_tell() -> None:
    assert (can(VLLM).context_tokens_max, can(VLLM).tokenizer) == (64, "ids")
    assert (can(LLAMA).context_tokens_max, can(LLAMA).tokenizer) == (8192, "pieces")
    assert can(LLAMA | {"meta": {"n_ctx": 512, "n_ctx_train": 8192}}).context_tokens_max == 512
    assert can().context_tokens_max == CONTEXT_TOKENS_DEFAULT
    assert can(VLLM, max_tokens_default=1000).max_tokens_default == 64


def test_the_revision_changes_with_the_model_and_not_with_the_clock() -> None:
    assert can(VLLM).revision == can(VLLM | {"created": 2, "permission": [{"id": "random"}]}).revision
    others = [
        can(VLLM | {"root": "/other"}),
        can(VLLM | {"max_model_len": 65}),
        can(LLAMA),
        can(LLAMA | {"meta": {"size": 10}}),
        can(),
        can(VLLM, name="other"),
    ]
    assert len({can(VLLM).revision, *[other.revision for other in others]}) == 7
    assert can(VLLM).revision.startswith("http://h/v1 m@")


def test_the_only_model_stands_for_any_name() -> None:
    assert find(models_of(json.dumps({"data": [LLAMA]}).encode()), "m") is not None
    assert find(models_of(json.dumps({"data": [LLAMA, VLLM]}).encode()), "other") is None
    assert not tells_ids(None)


def test_lists_that_are_none() -> None:
    for body in (b"", b"<html>", b"{}", b'{"data":[{"name":"x"}]}', b'{"data":null}', b"\xff"):
        assert models_of(body) == []


def test_ready_is_whoever_answers_and_does_not_say_later() -> None:
    assert not not_ready(200, 200)
    assert not not_ready(404, 200)
    assert not not_ready(200, 404)
    assert not not_ready(401, 403)
    assert "/health" in not_ready(503, 200)
    assert "/models" in not_ready(200, 502)
    assert not_ready(200, 429)
