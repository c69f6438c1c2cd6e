"""Bodies of OpenAI requests, decoded only as far as the edge decides from them. Pure.

The client's bytes travel on unchanged: a field that is not named here reaches the engine as the client sent it.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from edge.errors import Problem
from schemas.requests import CHOICES_MAX, prompts_in

INPUTS_MAX = 2048
"""Texts in one embeddings request, as OpenAI's API has it."""

Count = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)]
Seed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class StreamOptions(msgspec.Struct):
    """`stream_options` of a streaming request."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """One turn of a chat; its content is the engine's business, but for what `edge.images_walk` looks for in it."""

    role: str
    # Made by a function: JSON Schema has no words for a default that is raw.
    content: msgspec.Raw = msgspec.field(default_factory=partial(msgspec.Raw, b"null"))


class Body(msgspec.Struct, kw_only=True):
    """What the edge reads of any request. Unless it generates, one answer comes in one piece, and no tokens with it."""

    model: str | None = None

    @property
    def tokens_max(self) -> int | None:
        """The client's limit on output tokens of each choice."""
        return 1

    @property
    def choices(self) -> int:
        """How many answers the client wants."""
        return 1

    @property
    def streams(self) -> bool:
        """Whether the client reads token by token."""
        return False

    @property
    def include_usage(self) -> bool:
        """Whether a usage chunk ends the stream."""
        return False

    @property
    def given_id(self) -> str:
        """What the client itself calls the request; empty: nothing."""
        return ""


class GenerationBody(Body, kw_only=True):
    """What chats and completions share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Choices | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None

    @property
    def tokens_max(self) -> int | None:
        """Of the two fields the newer one wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatBody(GenerationBody, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], msgspec.Meta(extra_json_schema={"minItems": 1})]


class CompletionBody(GenerationBody, kw_only=True):
    """`POST /v1/completions`. `prompt` is one text, or a list of them; a text may be a list of its tokens."""

    prompt: str | list[Any]
    messages: Any = None

    @property
    def choices(self) -> int:
        """Of all prompts: those of the first come first."""
        return prompts_in(self.prompt) * (self.n or 1)


class EmbeddingBody(Body, kw_only=True):
    """`POST /v1/embeddings`. `input` is one text, or a list of them; a text may be a list of its tokens."""

    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    messages: Any = None
    prompt: Any = None


_chat = msgspec.json.Decoder(ChatBody)
_completion = msgspec.json.Decoder(CompletionBody)
_embedding = msgspec.json.Decoder(EmbeddingBody)

_S = TypeVar("_S", bound=msgspec.Struct)
_G = TypeVar("_G", bound=GenerationBody)
_AT = re.compile(r"at `\$\.(\w+)")
_MISSING = re.compile(r"required field `(\w+)`")


def decode_chat(data: bytes) -> ChatBody | Problem:
    """A chat's body, or what is wrong with it."""
    body = _decode_generation(_chat, data)
    if isinstance(body, ChatBody) and not body.messages:
        return Problem("bad_request", "messages must not be empty", "messages")
    return body


def decode_completion(data: bytes) -> CompletionBody | Problem:
    """A completion's body, or what is wrong with it."""
    body = _decode_generation(_completion, data)
    if isinstance(body, Problem):
        return body
    if body.messages is not None:
        return _belongs_elsewhere("messages", "/v1/chat/completions")
    if not prompts_in(body.prompt):
        return Problem(
            "bad_request",
            "prompt must be a text, a list of texts, a list of tokens, or a list of such lists, none of them empty",
            "prompt",
        )
    if body.choices > CHOICES_MAX:
        return Problem(
            "bad_request",
            f"one request makes at most {CHOICES_MAX} choices, and this one asks for {body.choices}: send several",
            "prompt",
        )
    return body


def decode_embedding(data: bytes) -> EmbeddingBody | Problem:
    """An embeddings body, or what is wrong with it."""
    body = decode_as(_embedding, data)
    if isinstance(body, Problem):
        return body
    if body.messages is not None:
        return _belongs_elsewhere("messages", "/v1/chat/completions")
    if body.prompt is not None:
        return _belongs_elsewhere("prompt", "/v1/completions")
    if not _are_texts(body.input):
        return Problem(
            "bad_request",
            "input must be a text, a list of texts, a list of tokens, or a list of such lists, none of them empty; "
            f"at most {INPUTS_MAX} of them in one request",
            "input",
        )
    return body


def _belongs_elsewhere(field: str, path: str) -> Problem:
    """An engine tells by its fields what a request is."""
    return Problem("bad_request", f"{field} belongs to {path}", field)


def _are_texts(given: str | list[Any]) -> bool:
    return bool(given) and 0 < prompts_in(given) <= INPUTS_MAX


def decode_as(decoder: msgspec.json.Decoder[_S], data: bytes) -> _S | Problem:
    """A body of any kind, or what is wrong with it."""
    try:
        body = decoder.decode(data)
    except msgspec.ValidationError as error:
        return _invalid(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Problem("bad_request", f"the body is not valid JSON: {error}")
    except RecursionError:
        return Problem("bad_request", "the body is nested too deeply")
    return body


def _decode_generation(decoder: msgspec.json.Decoder[_G], data: bytes) -> _G | Problem:
    body = decode_as(decoder, data)
    if isinstance(body, GenerationBody) and body.stream_options is not None and not body.streams:
        return Problem("bad_request", "stream_options needs stream to be true", "stream_options")
    return body


def _invalid(text: str) -> Problem:
    field = _AT.search(text) or _MISSING.search(text)
    return Problem("bad_request", f"invalid request: {text}", field[1] if field else None)
