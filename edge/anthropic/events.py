"""A message and the events of its stream, as types. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.anthropic.bodies import Text, Thinking, ToolUse

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
Block = Text | Thinking | ToolUse


class ThinkingTokens(msgspec.Struct):
    """How many tokens of the output nobody is shown as the answer."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, omit_defaults=True):
    """Tokens charged for. `input_tokens` are those that the engine had not in its cache, as Anthropic counts; what it
    does not tell is left out."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | msgspec.UnsetType = msgspec.UNSET
    output_tokens_details: ThinkingTokens | msgspec.UnsetType = msgspec.UNSET


class Message(msgspec.Struct):
    """The answer as a whole. Its end is not known yet in the event that begins a stream."""

    id: str
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    stop_details: None = None


class TextDelta(msgspec.Struct, tag_field="type", tag="text_delta"):
    """A piece of a text."""

    text: str


class ThinkingDelta(msgspec.Struct, tag_field="type", tag="thinking_delta"):
    """A piece of a thought."""

    thinking: str


class SignatureDelta(msgspec.Struct, tag_field="type", tag="signature_delta"):
    """The end of a thought."""

    signature: str


class InputJsonDelta(msgspec.Struct, tag_field="type", tag="input_json_delta"):
    """A piece of a call's arguments; all of them make one JSON text."""

    partial_json: str


class Stop(msgspec.Struct):
    """Why a message ended."""

    stop_reason: StopReason | None
    stop_sequence: str | None
    stop_details: None = None


class MessageStart(msgspec.Struct, tag_field="type", tag="message_start"):
    """A stream begins."""

    message: Message


class ContentBlockStart(msgspec.Struct, tag_field="type", tag="content_block_start"):
    """A block begins, empty."""

    index: int
    content_block: Block


class ContentBlockDelta(msgspec.Struct, tag_field="type", tag="content_block_delta"):
    """A piece of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockStop(msgspec.Struct, tag_field="type", tag="content_block_stop"):
    """A block is whole."""

    index: int


class MessageDelta(msgspec.Struct, tag_field="type", tag="message_delta"):
    """The message is whole; the usage is that of all of it."""

    delta: Stop
    usage: MessageUsage


class MessageStop(msgspec.Struct, tag_field="type", tag="message_stop"):
    """The last word of a stream that is whole."""


class Ping(msgspec.Struct, tag_field="type", tag="ping"):
    """Nothing new, and the stream is alive."""


Event = (
    MessageStart
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | Ping
)

_encode = msgspec.json.Encoder().encode


def frame(event: Event) -> bytes:
    """An event as it stands in a stream, without an id."""
    name = event.__struct_config__.tag
    assert isinstance(name, str)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(event))
