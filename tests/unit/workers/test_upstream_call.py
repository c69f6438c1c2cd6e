"""What is asked of an upstream: the client's bytes, and our own fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.requests import RequestMeta
from workers.engines.base import EngineRequest
from workers.engines.seeds import seed_of
from workers.engines.upstream_call import BadBody, Call, Upstream

UPSTREAM = Upstream("there")
KEY = "anonymous.r0000000000000000000000001"


def call(body: bytes | dict[str, Any], upstream: Upstream = UPSTREAM) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(EngineRequest(KEY, 1, raw, RequestMeta()), upstream)


def sent(body: bytes | dict[str, Any], upstream: Upstream = UPSTREAM, *refused: str) -> dict[str, Any]:
    return dict(json.loads(call(body, upstream).content(dict.fromkeys(refused))))


def test_a_chat_is_passed_on_with_our_fields() -> None:
    body = {
        "model": "here",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "stream_options": {"include_usage": False},
        "top_k": 7,
        "metadata": {"a": [1, None]},
        "penstock_fault": {"die_at_token": 3},
    }
    assert sent(body) == {
        "model": "there",
        "messages": body["messages"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_k": 7,
        "metadata": {"a": [1, None]},
        "seed": seed_of(KEY.rpartition(".")[2]),
    }
    assert call(body).path == "chat/completions"


def test_values_travel_as_the_bytes_they_came_in() -> None:
    content = call(b'{"messages":[], "temperature":0.30000, "x":{"b" :1,  "a":"\\u00e9"}}').content({})
    assert b"0.30000" in content
    assert b'{"b" :1,  "a":"\\u00e9"}' in content


def test_a_seed_of_the_client_stands() -> None:
    assert sent({"messages": [], "seed": 5})["seed"] == 5
    assert sent({"messages": [], "seed": 5}, UPSTREAM, "seed")["seed"] == 5
    assert sent({"messages": [], "seed": None})["seed"] == seed_of(KEY.rpartition(".")[2])


def test_refused_fields_are_left_out() -> None:
    fields = sent({"prompt": "x"}, Upstream("there", 0, True), "stream_options", "seed", "return_token_ids")
    assert fields == {"model": "there", "prompt": "x", "stream": True}
    assert sent({"prompt": "x"}, Upstream("there", 0, True))["return_token_ids"] is True
    assert "return_token_ids" not in sent({"prompt": "x"})


def test_embeddings_are_asked_for_as_they_are() -> None:
    assert sent({"input": ["a"], "encoding_format": "base64"}) == {
        "model": "there",
        "input": ["a"],
        "encoding_format": "base64",
    }
    assert call({"input": "a"}).path == "embeddings"


def test_the_limit_of_a_request_that_names_none() -> None:
    limited = Upstream("there", 99)
    assert sent({"messages": []}, limited)["max_tokens"] == 99
    assert "max_tokens" not in sent({"messages": [], "max_completion_tokens": 5}, limited)
    assert sent({"messages": [], "max_tokens": 5}, limited)["max_tokens"] == 5
    assert "max_tokens" not in sent({"messages": []})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b'{"messages":[],"functions":[]}',
        b'{"messages":[],"n":0}',
        b'{"messages":[],"n":"two"}',
        b'{"messages":[],"n":1000}',
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_bad_bodies(body: bytes) -> None:
    with pytest.raises(BadBody):
        call(body)


def test_token_prompts_and_choices() -> None:
    assert call({"prompt": [1, 2, 3]}).choices == 1
    assert call({"prompt": ["a"], "n": 3}).choices == 3


def test_repeatable_is_what_is_greedy_or_has_a_seed_that_is_taken() -> None:
    assert call({"messages": []}).is_repeatable({})
    assert not call({"messages": []}).is_repeatable({"seed": None})
    assert call({"messages": [], "seed": 3}).is_repeatable({"seed": None})
    assert call({"messages": [], "temperature": 0}).is_repeatable({"seed": None})
    assert call({"messages": [], "temperature": 0.0}).is_repeatable({"seed": None})
    assert not call({"messages": [], "temperature": 0.1}).is_repeatable({"seed": None})
