"""What the simulator reads of a request: an OpenAI-compatible body, and faults for this request."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec

from schemas.requests import CHOICES_MAX


def prompt_of(body: bytes) -> str:
    """The first prompt of a chat or completion body, as the simulator reads it. Raises `InvalidRequest`."""
    return prompts(decode_body(body))[0]


class InvalidRequest(ValueError):
    """The client's mistake; the message names the field, `reason` is the client's error."""

    def __init__(
        self, message: str, reason: Literal["bad_request", "context_length"] = "bad_request"
    ) -> None:
        super().__init__(message)
        self.reason = reason


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong at the token with this offset in its choice (-1: nothing). `slow_factor` stretches prefill and
    steps: like one long request on a real device, a slow one slows down the whole batch."""

    die_at_token: int = -1
    hang_at_token: int = -1
    raise_at_token: int = -1
    oom_at_token: int = -1
    slow_factor: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0


class _Image(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""
    image_url: _Image | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class Function(msgspec.Struct):
    """A function that may be called; its parameters are not looked at."""

    name: str


class Named(msgspec.Struct):
    """A function by its name: one of the `tools`, or the one that `tool_choice` wants called."""

    function: Function


_Count = Annotated[int, msgspec.Meta(ge=1)]
_Choices = Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)]
_Top = Annotated[int, msgspec.Meta(ge=0, le=20)]
_Dimensions = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Stop = Annotated[str, msgspec.Meta(min_length=1)]


class Body(msgspec.Struct):
    """The fields of an OpenAI-compatible body that change what is simulated."""

    model: str | None = None
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)] | None = None
    prompt: str | list[Any] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stop: _Stop | list[_Stop] | None = None
    seed: int | None = None
    n: _Choices | None = None
    logprobs: bool | _Top | None = None
    top_logprobs: _Top | None = None
    tools: list[Named] | None = None
    tool_choice: Literal["none", "auto", "required"] | Named | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    input: str | list[Any] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: _Dimensions | None = None
    penstock_fault: Faults = Faults()

    @property
    def is_embedding(self) -> bool:
        """Whether vectors are wanted, not text."""
        return self.input is not None and self.messages is None and self.prompt is None

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are told; None: no logprobs. A chat says so in two fields, a completion in
        one."""
        match self.logprobs:
            case None | False:
                return None
            case True:
                return self.top_logprobs or 0
            case count:
                return count

    @property
    def reason_of_call(self) -> str:
        """Why an output that is a call ended: OpenAI's API tells a call that the client has named from others."""
        return "stop" if isinstance(self.tool_choice, Named) else "tool_calls"


_body_decoder = msgspec.json.Decoder(Body)


def decode_body(body: bytes) -> Body:
    """The body's fields. Raises `InvalidRequest`."""
    try:
        return _body_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request's body has a wrong value: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request's body is not JSON: {error}") from None


def prompts(body: Body) -> list[str]:
    """The prompts as texts, at least one: a chat is its messages with their roles, a line each. Raises
    `InvalidRequest`."""
    if body.messages is not None:
        return ["\n".join(f"{message.role}: {_content(message)}" for message in body.messages)]
    if body.prompt is None:
        raise InvalidRequest("The request has no prompt: `messages` or `prompt` is required.")
    texts = texts_of(body.prompt)
    if not texts:
        raise InvalidRequest("`prompt` must be one text, a list of them, or lists of tokens.")
    return texts


def texts_of(given: str | list[Any]) -> list[str]:
    """One text, several, or lists of tokens, which stand for their numbers; empty: it is none of these."""
    match given:
        case str(text):
            return [text]
        case [*items] if items and all(isinstance(item, int) for item in items):
            return [_numbers(items)]
        case [*items] if items and all(isinstance(item, str | list) and item for item in items):
            return [item if isinstance(item, str) else _numbers(item) for item in items]
        case _:
            return []


def _numbers(tokens: list[Any]) -> str:
    return " ".join([str(token) for token in tokens])


def _content(message: _Message) -> str:
    if isinstance(message.content, list):
        return "".join(_seen(part) for part in message.content)
    return message.content or ""


def _seen(part: _Part) -> str:
    """An image is seen as a word that stands for its bytes: with another image, everything is said otherwise."""
    if part.type == "image_url" and part.image_url is not None:
        return f" <image:{hashlib.blake2b(part.image_url.url.encode(), digest_size=8).hexdigest()}> "
    return part.text if part.type == "text" else ""
