"""Bodies of OpenAI requests, decoded only as far as the edge decides from them. Pure.

The client's bytes travel on unchanged: a field that is not named here reaches the engine as the client sent it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec

from edge.errors import Problem

Count = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]
Seed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class StreamOptions(msgspec.Struct):
    """`stream_options` of a streaming request."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """One turn of a chat; its content is the engine's business."""

    role: str


class Body(msgspec.Struct, kw_only=True):
    """What chats and completions share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: int | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None

    @property
    def tokens_max(self) -> int | None:
        """The client's limit on output tokens; the newer field wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def streams(self) -> bool:
        """Whether the client reads token by token."""
        return bool(self.stream)

    @property
    def include_usage(self) -> bool:
        """Whether a usage chunk ends the stream."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatBody(Body, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]


class CompletionBody(Body, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[Any]


_chat = msgspec.json.Decoder(ChatBody)
_completion = msgspec.json.Decoder(CompletionBody)

_B = TypeVar("_B", bound=Body)
_AT = re.compile(r"at `\$\.(\w+)")
_MISSING = re.compile(r"required field `(\w+)`")


def decode_chat(data: bytes) -> ChatBody | Problem:
    """A chat's body, or what is wrong with it."""
    body = _decode(_chat, data)
    if isinstance(body, ChatBody) and not body.messages:
        return Problem("bad_request", "messages must not be empty", "messages")
    return body


def decode_completion(data: bytes) -> CompletionBody | Problem:
    """A completion's body, or what is wrong with it."""
    body = _decode(_completion, data)
    if isinstance(body, CompletionBody) and not _is_one_text(body.prompt):
        return Problem(
            "bad_request",
            "prompt must be one text: lists of tokens and of several prompts are not supported; "
            "send one request for each prompt",
            "prompt",
        )
    return body


def _is_one_text(prompt: str | list[Any]) -> bool:
    return isinstance(prompt, str) or (len(prompt) == 1 and isinstance(prompt[0], str))


def _decode(decoder: msgspec.json.Decoder[_B], data: bytes) -> _B | Problem:
    try:
        body = decoder.decode(data)
    except msgspec.ValidationError as error:
        return _invalid(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Problem("bad_request", f"the body is not valid JSON: {error}")
    except RecursionError:
        return Problem("bad_request", "the body is nested too deeply")
    return _unsupported(body) or body


def _invalid(text: str) -> Problem:
    field = _AT.search(text) or _MISSING.search(text)
    return Problem("bad_request", f"invalid request: {text}", field[1] if field else None)


def _unsupported(body: Body) -> Problem | None:
    if body.n not in (None, 1):
        return Problem("bad_request", f"n must be 1, not {body.n}: send one request for each choice", "n")
    if body.stream_options is not None and not body.streams:
        return Problem("bad_request", "stream_options needs stream to be true", "stream_options")
    return None
