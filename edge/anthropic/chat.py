"""From a body of the Messages API to the chat that says the same to an engine. Pure.

What a chat has no field for:

- A `tool_result` is a message of its own there, with text only: its images follow in a message of the user, and an
  error says so in its text.
- Thoughts of earlier turns go back as `reasoning_content`, which vLLM and llama.cpp both take.
- `thinking` becomes `enable_thinking` in `chat_template_kwargs`, both ways: a template that knows no such switch is not
  given it by vLLM and does not look at it in llama.cpp. `output_config.effort` becomes `reasoning_effort`.
- An `assistant` turn at the end is gone on with by engines that take `continue_final_message`.

A field that is not named in the bodies goes to the engine as it came, so extensions of engines can be used here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Any

import msgspec

from edge.anthropic.bodies import (
    AssistantBlock,
    AssistantMessage,
    CountBody,
    Image,
    JsonObject,
    Message,
    MessageBody,
    RedactedThinking,
    SystemMessage,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    UrlSource,
    UserBlock,
    UserMessage,
    decode,
)
from edge.dialect import Asked
from edge.errors import Problem
from edge.openai_bodies import decode_chat

NOT_PASSED_ON = (
    # Anthropic's own: what its servers cache, bill, fetch and run.
    *(
        "betas",
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "mcp_servers",
    ),
    *("service_tier", "speed", "thread", "user_profile_id", "workspace_id"),
    # A chat's, which would ask for more than one message can hold, or for something else than a message.
    *("best_of", "echo", "input", "logprobs", "max_completion_tokens", "n", "prompt", "prompt_logprobs"),
    *("stream_options", "top_logprobs"),
)

BILLING_BLOCK = "x-anthropic-billing-header"
"""Begins a block of `system` that Claude Code puts first, with a hash of each request in it: it is for Anthropic's
accounting, and in front of everything else it would keep any engine from finding the prompt in its cache."""

_EFFORTS = {"max": "xhigh"}
_CHOICES = {"any": "required"}
"""What has another name at OpenAI; all others are the same."""

_encode = msgspec.json.Encoder().encode


def read_message(raw: bytes) -> Asked | Problem:
    """The chat that answers `POST /v1/messages`."""
    decoded = decode(raw, MessageBody)
    if isinstance(decoded, Problem):
        return decoded
    body, fields = decoded
    wanted = {
        "max_tokens": body.max_tokens,
        "stream": body.stream,
        "stop": body.stop_sequences or None,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "user": body.metadata.user_id if body.metadata else None,
    }
    return _asked(body, fields, {name: value for name, value in wanted.items() if value is not None})


def read_count(raw: bytes) -> Asked | Problem:
    """The chat that `POST /v1/messages/count_tokens` costs: the one token is the least that an engine makes."""
    decoded = decode(raw, CountBody)
    if isinstance(decoded, Problem):
        return decoded
    body, fields = decoded
    return _asked(body, fields, {"max_tokens": 1})


def _asked(body: CountBody, fields: JsonObject, wanted: dict[str, Any]) -> Asked | Problem:
    # What a message takes besides says nothing about its prompt, so a count is not told of it either.
    own = (*MessageBody.__struct_fields__, *NOT_PASSED_ON)
    passed_on = {name: value for name, value in fields.items() if name not in own}
    raw = _encode({"model": body.model, **_chat(body), **passed_on, **wanted})
    # Fields that are passed on may be wrong in their own right.
    chat = decode_chat(raw)
    return chat if isinstance(chat, Problem) else Asked(chat, raw)


def _chat(body: CountBody) -> dict[str, Any]:
    """All of the chat that its prompt depends on."""
    messages = _messages(body.messages)
    system = _system(body.system or "")
    chat: dict[str, Any] = {"messages": [*system, *messages]}
    if body.tools:
        chat["tools"] = [_function(tool) for tool in body.tools]
        if body.tool_choice is not None:
            chat |= _choice(body.tool_choice)
    if body.thinking is not None and body.thinking.type in ("enabled", "disabled"):
        chat["chat_template_kwargs"] = {"enable_thinking": body.thinking.type == "enabled"}
    config = body.output_config
    if config is not None and config.effort is not None:
        chat["reasoning_effort"] = _EFFORTS.get(config.effort, config.effort)
    if config is not None and config.format is not None:
        schema = {"name": "output", "schema": config.format.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    last = messages[-1] if messages else {"role": "system"}
    if last["role"] == "assistant" and last["content"] and "tool_calls" not in last:
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    return chat


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns of one side that follow each other are one turn, as Anthropic's API has it and most templates need it."""
    chat: list[dict[str, Any]] = []
    for kind, turns in groupby(messages, type):
        blocks: Iterable[Any] = chain.from_iterable(_blocks(turn.content) for turn in turns)
        if kind is UserMessage:
            chat += _user(list(blocks))
        elif kind is AssistantMessage:
            chat.append(_assistant(list(blocks)))
        else:
            assert kind is SystemMessage
            chat += _system(list(blocks))
    return chat


def _blocks(content: str | Sequence[Any]) -> Sequence[Any]:
    return [Text(content)] if isinstance(content, str) else content


def _system(content: str | Sequence[Text]) -> list[dict[str, Any]]:
    texts = [block.text for block in _blocks(content) if not block.text.startswith(BILLING_BLOCK)]
    text = "\n".join(texts)
    return [{"role": "system", "content": text}] if text else []


def _user(blocks: Sequence[UserBlock]) -> list[dict[str, Any]]:
    """Results stand first, wherever they stood: nothing may come between a call and what it has brought."""
    results = [block for block in blocks if isinstance(block, ToolResult)]
    shown = [image for result in results for image in _images(result)]
    said = [block for block in blocks if not isinstance(block, ToolResult)]
    chat = [_result(result) for result in results]
    parts = [_part(block) for block in [*shown, *said]]
    if len(parts) == 1 and "text" in parts[0]:
        chat.append({"role": "user", "content": parts[0]["text"]})
    elif parts:
        chat.append({"role": "user", "content": parts})
    return chat


def _assistant(blocks: Sequence[AssistantBlock]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        match block:
            case Text():
                texts.append(block.text)
            case Thinking():
                thoughts.append(block.thinking)
            case ToolUse():
                function = {"name": block.name, "arguments": _encode(block.input).decode()}
                calls.append({"id": block.id, "type": "function", "function": function})
            case RedactedThinking():
                pass
    text = "".join(texts)
    turn: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
    if thoughts:
        turn["reasoning_content"] = "".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return turn


def _result(result: ToolResult) -> dict[str, Any]:
    texts = [block.text for block in _blocks(result.content or "") if isinstance(block, Text)]
    text = "\n".join(texts)
    return {
        "role": "tool",
        "tool_call_id": result.tool_use_id,
        "content": f"Error: {text}" if result.is_error else text,
    }


def _images(result: ToolResult) -> list[Image]:
    return [block for block in _blocks(result.content or "") if isinstance(block, Image)]


def _part(block: Text | Image) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _function(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    chosen: dict[str, Any] = {"tool_choice": _CHOICES.get(choice.type, choice.type)}
    if choice.type == "tool":
        chosen["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    if choice.disable_parallel_tool_use:
        chosen["parallel_tool_calls"] = False
    return chosen
