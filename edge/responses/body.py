"""Bodies of `POST /v1/responses`: their fields, and what of them nobody here can do. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from edge.errors import Problem
from edge.openai_bodies import Count, Penalty, Probability, Temperature

Top = Annotated[int, msgspec.Meta(ge=0, le=20)]
ToolMode = Literal["none", "auto", "required"]


class TextFormat(msgspec.Struct):
    """What kind of text is wanted; all but `type` belongs to `json_schema`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct):
    """`text`."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(msgspec.Struct):
    """`reasoning`. Thoughts are told as they are, so a wish for a summary of them changes nothing."""

    effort: str | None = None
    summary: str | None = None


class FunctionTool(msgspec.Struct):
    """The one type of tool that an engine knows: a function of the client's."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseBody(msgspec.Struct, kw_only=True):
    """`POST /v1/responses`. Fields that are not named here reach the engine as the client sent them."""

    model: str | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    background: bool | None = None
    store: bool | None = None
    max_output_tokens: Count | None = None
    max_tool_calls: Count | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolMode | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Top | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the response can be asked for later."""
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token's logprob is told."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or [])


LOGPROBS = "message.output_text.logprobs"

NAMED = frozenset(ResponseBody.__struct_fields__)

IGNORED = frozenset(("access_programs", "context_management", "image", "moderation", "prompt_cache_options"))
"""Fields of OpenAI's API that mean nothing to an engine, and change no answer."""

REFUSED = {
    "conversation": "conversations are not kept here: use previous_response_id",
    "prompt": "prompt templates are not kept here: use input",
    "messages": "messages belongs to /v1/chat/completions: use input",
    "max_tokens": "max_tokens belongs to /v1/chat/completions: use max_output_tokens",
    "max_completion_tokens": "max_completion_tokens belongs to /v1/chat/completions: use max_output_tokens",
    "response_format": "response_format belongs to /v1/chat/completions: use text.format",
    "reasoning_effort": "reasoning_effort belongs to /v1/chat/completions: use reasoning.effort",
    "functions": "functions belongs to /v1/chat/completions: use tools",
    "function_call": "function_call belongs to /v1/chat/completions: use tool_choice",
    "n": "a response has one answer: send one request for each",
}

_body = msgspec.json.Decoder(ResponseBody)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL = msgspec.Raw(b"null")
_AT = re.compile(r"at `\$\.([\w.\[\]]+)")


def decode_response(data: bytes) -> tuple[ResponseBody, dict[str, msgspec.Raw]] | Problem:
    """The body, and the fields beside it that are the engine's; or what is wrong with it."""
    try:
        body = _body.decode(data)
        fields = _fields.decode(data)
    except msgspec.ValidationError as error:
        found = _AT.search(str(error))
        param = found[1].replace("[...]", "") if found else None
        return Problem("bad_request", f"invalid request: {error}", param)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Problem("bad_request", f"the body is not valid JSON: {error}")
    except RecursionError:
        return Problem("bad_request", "the body is nested too deeply")
    for name, why in REFUSED.items():
        if fields.get(name, _NULL) != _NULL:
            return Problem("bad_request", why, name)
    if body.input is None:
        return Problem("bad_request", "input is required", "input")
    if body.background and not body.is_kept:
        return Problem("bad_request", "background needs store to be true", "background")
    rest = {name: value for name, value in fields.items() if name not in NAMED | IGNORED | REFUSED.keys()}
    return body, rest
