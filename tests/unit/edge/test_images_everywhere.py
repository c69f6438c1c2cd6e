"""Wherever a body may name an image, its URL passes the checks that a chat's does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.anthropic.chat import read_count, read_message
from edge.compat.predict import read as read_predict
from edge.dialect import Asked
from edge.dialects import CHAT
from edge.errors import Problem
from edge.images_data import ImageRules
from edge.images_hosts import parse_hosts
from edge.images_walk import remotes_in
from edge.openai_bodies import ChatBody
from edge.responses.translate import read_response

LISTED = "https://pictures.example/a.png"
FOREIGN = [
    "http://169.254.169.254/latest",
    "https://elsewhere.example/a.png",
    "file:///etc/passwd",
    "//x/a.png",
]
ANTHROPIC: dict[str, Any] = {"type": "image", "source": {"type": "url", "url": "$"}}
OPENAI: dict[str, Any] = {"type": "image_url", "image_url": {"url": "$"}}
PART: dict[str, Any] = {"type": "input_image", "image_url": "$"}


def said(content: object, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": content}]


def shown_by_tool(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": [part]}


MESSAGE = {"model": "m", "max_tokens": 9}
CASES = [
    (CHAT.read, {"messages": said([OPENAI])}),
    (read_predict, {"messages": said([OPENAI])}),
    (read_message, {**MESSAGE, "messages": said([ANTHROPIC])}),
    (read_message, {**MESSAGE, "messages": said([shown_by_tool(ANTHROPIC)])}),
    (read_count, {"model": "m", "messages": said([ANTHROPIC])}),
    (read_response, {"input": said([PART])}),
    (read_response, {"input": said([PART], "assistant")}),
    (read_response, {"input": [{"type": "function_call_output", "call_id": "c", "output": [PART]}]}),
]


@pytest.mark.parametrize(("reading", "body"), CASES)
def test_a_url_is_fetched_from_listed_hosts_alone(reading: Any, body: dict[str, Any]) -> None:
    rules = ImageRules(4, 1 << 20, 1 << 20, parse_hosts("pictures.example"))

    def checked(url: str) -> Any:
        asked = reading(json.dumps(body).replace('"$"', json.dumps(url)).encode())
        assert isinstance(asked, Asked), asked
        assert isinstance(asked.body, ChatBody)
        return remotes_in(asked.body.messages, rules)

    assert [remote.target.path for remote in checked(LISTED)] == ["/a.png"]
    for url in FOREIGN:
        assert isinstance(checked(url), Problem), url
