"""What is kept of a response's request: its output is in the log, and nothing else tells these. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

NOTHING_ASKED: Mapping[str, Any] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The fields that an object of a response repeats from its request, as they are where a client leaves them out."""


class Record(msgspec.Struct, frozen=True):
    """`echo` is NOTHING_ASKED with what was asked. `items` is the input; `history` the chat's messages before it,
    without instructions, so that the next turn needs one record and one log. `created` is in Unix seconds;
    `fingerprint` is the body's, as in a request's message."""

    fingerprint: str
    model: str
    created: int
    echo: dict[str, Any]
    items: list[dict[str, Any]]
    history: list[dict[str, Any]] = []


_decoder = msgspec.json.Decoder(Record)
encode_record = msgspec.json.Encoder().encode


def decode_record(data: bytes) -> Record:
    """Raises msgspec.DecodeError (and its child ValidationError) for what is no record."""
    return _decoder.decode(data)
