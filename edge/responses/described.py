"""What is answered, as types: for the API's description. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Tokens; each counts once."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why an output is not all of it."""

    reason: Literal["max_output_tokens", "content_filter"]


class ResponseError(msgspec.Struct, frozen=True):
    """Why there is no output, or only a part. `code` is one of OpenAI's, `type` the code of this server's errors."""

    code: str
    message: str
    param: str | None
    type: str


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A response. All fields are always there; times are in Unix seconds."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[dict[str, Any]]
    usage: Usage | None
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
