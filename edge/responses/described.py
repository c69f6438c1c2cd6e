"""Answers of the responses endpoints as types. They describe what `edge.responses.shape` writes; nothing is encoded
with them. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """The text of a message. Logprobs are told where they were asked for."""

    text: str
    annotations: list[Any]
    logprobs: list[dict[str, Any]]


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """What a model said to itself."""

    text: str


class MessageItem(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """What is shown as the answer."""

    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """What came before it; nobody summarizes it."""

    id: str
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningText]


class FunctionCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """A function that the client shall call; `arguments` is JSON text."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class ResponseFault(msgspec.Struct, frozen=True):
    """Why a response failed; `code` is one of OpenAI's, `type` one of the table of errors."""

    code: str
    message: str
    param: str | None
    type: str


class WhyIncomplete(msgspec.Struct, frozen=True):
    """Why an answer is not all of it."""

    reason: Literal["max_output_tokens", "content_filter"]


class CachedTokens(msgspec.Struct, frozen=True):
    """Of the input's tokens, those that the engine had already."""

    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(msgspec.Struct, frozen=True):
    """Of the output's tokens, those before the answer."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """Tokens charged; each counts once, whatever was repeated."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A response. All fields are always there; times are in Unix seconds."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    completed_at: int | None
    error: ResponseFault | None
    incomplete_details: WhyIncomplete | None
    model: str
    output: list[MessageItem | ReasoningItem | FunctionCallItem]
    usage: ResponseUsage | None
    background: bool
    frequency_penalty: float
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: str | None
    access_programs: None
    conversation: None
    image: None
    input_transformations: None
    moderation: None
    prompt: None
    prompt_cache_diagnostics: None
    prompt_cache_options: None
    tool_usage: None


class ResponseEvent(msgspec.Struct, frozen=True):
    """An event of a response's stream; numbers count from 0. Its other fields are those of OpenAI's events."""

    type: str
    sequence_number: int
