"""Bodies on their way to llama.cpp."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from workers.engines.llamacpp_body import BadBody, LlamaBody, llama_body
from workers.engines.seeds import seed_of

CHAT = {"messages": [{"role": "user", "content": "x"}]}


def translated(body: dict[str, Any], rid: str = "rid", max_tokens: int = 9) -> tuple[LlamaBody, Any]:
    made = llama_body(msgspec.json.encode(body), rid=rid, max_tokens=max_tokens)
    return made, msgspec.json.decode(made.body)


def test_it_always_streams_with_usage_and_progress() -> None:
    made, sent = translated({**CHAT, "stream": False, "stream_options": {"include_usage": False}})
    assert made.call == "chat_completions"
    assert (sent["stream"], sent["stream_options"], sent["return_progress"]) == (
        True,
        {"include_usage": True},
        True,
    )
    assert translated({"prompt": "x"})[0].call == "completions"


def test_other_fields_stay_as_they_are() -> None:
    raw = b'{"messages":[{"role":"user","content":"\\u00e9"}],"top_k":40,"x":1.50,"temperature":0.0}'
    made = llama_body(raw, rid="r", max_tokens=1)
    assert b'"x":1.50' in made.body
    assert b'"content":"\\u00e9"' in made.body


def test_the_seed_hangs_on_the_rid_and_a_client_s_own_stands() -> None:
    _, sent = translated(CHAT, rid="abc")
    assert sent["seed"] == seed_of("abc")
    assert "cache_prompt" not in sent
    _, sent = translated({**CHAT, "seed": 0})
    assert (sent["seed"], sent["cache_prompt"]) == (0, False)
    assert translated({**CHAT, "seed": 1, "cache_prompt": True})[1]["cache_prompt"] is True
    assert translated({**CHAT, "seed": None}, rid="abc")[1]["seed"] == seed_of("abc")


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({}, 9),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": None}, 9),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"n_predict": -1}, 9),
    ],
)
def test_one_limit_holds(limits: dict[str, Any], limit: int) -> None:
    _, sent = translated({**CHAT, **limits})
    assert sent["max_tokens"] == limit
    assert not {"max_completion_tokens", "n_predict"} & sent.keys()


def test_what_is_the_operator_s_does_not_get_through() -> None:
    _, sent = translated({**CHAT, "id_slot": 0, "n_cmpl": 5, "sse_ping_interval": 1})
    assert not {"id_slot", "n_cmpl", "sse_ping_interval"} & sent.keys()


@pytest.mark.parametrize(
    ("body", "sent_as", "shows_top"),
    [
        ({**CHAT, "logprobs": True}, ("top_logprobs", 1), False),
        ({**CHAT, "logprobs": True, "top_logprobs": 0}, ("top_logprobs", 1), False),
        ({**CHAT, "logprobs": True, "top_logprobs": 4}, ("top_logprobs", 4), True),
        ({"prompt": "x", "logprobs": 0}, ("logprobs", 1), False),
        ({"prompt": "x", "logprobs": 2}, ("logprobs", 2), True),
        ({**CHAT, "logprobs": False}, ("logprobs", False), False),
    ],
)
def test_logprobs(body: dict[str, Any], sent_as: tuple[str, int], shows_top: bool) -> None:
    made, sent = translated(body)
    assert sent[sent_as[0]] == sent_as[1]
    assert made.shows_top is shows_top


def test_choices() -> None:
    assert translated({**CHAT, "n": 3})[0].choices == 3
    made, sent = translated({**CHAT, "n": None})
    assert made.choices == 1
    assert "n" not in sent


@pytest.mark.parametrize("prompt", ["x", ["x"], [1, 2, 3], [[1, 2]], ["x", 5]])
def test_one_prompt(prompt: Any) -> None:
    assert translated({"prompt": prompt})[1]["prompt"] == prompt


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"prompt": "\xff"}',
        b"{}",
        b'{"messages": [{"content": [{"image_url": {"url": "https://x/y.png"}}]}]}',
        b'{"messages": [{"content": [{"image_url": "file:///etc/passwd"}]}]}',
        b'{"messages": [{"content": [{"video_url": {"url": null}}]}]}',
        b'{"messages": {"content": [{"deep": [{"audio_url": {}}]}]}}',
    ],
)
def test_mistakes(body: bytes) -> None:
    with pytest.raises(BadBody):
        llama_body(body, rid="r", max_tokens=1)


def test_an_image_in_the_request_goes_through() -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert (
        translated({"messages": [{"role": "user", "content": content}]})[1]["messages"][0]["content"]
        == content
    )


def test_embeddings_are_left_alone() -> None:
    raw = b'{"input": "x",  "encoding_format": "base64"}'
    assert llama_body(raw, rid="r", max_tokens=1) == LlamaBody("embeddings", raw)
