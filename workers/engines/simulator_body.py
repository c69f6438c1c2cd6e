"""What the simulator reads of a request: an OpenAI-compatible chat or completion body, and faults for this request."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


def prompt_of(body: bytes) -> str:
    """The prompt of a chat or completion body, as the simulator reads it. Raises `InvalidRequest`."""
    return prompt_text(decode_body(body))


class InvalidRequest(ValueError):
    """The client's mistake; the message names the field, `reason` is the client's error."""

    def __init__(
        self, message: str, reason: Literal["bad_request", "context_length"] = "bad_request"
    ) -> None:
        super().__init__(message)
        self.reason = reason


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong at the token with this offset (-1: nothing). `slow_factor` stretches prefill and steps: like one
    long request on a real device, a slow one slows down the whole batch."""

    die_at_token: int = -1
    hang_at_token: int = -1
    raise_at_token: int = -1
    oom_at_token: int = -1
    slow_factor: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


_Count = Annotated[int, msgspec.Meta(ge=1)]
_Stop = Annotated[str, msgspec.Meta(min_length=1)]


class Body(msgspec.Struct):
    """The fields of an OpenAI-compatible chat or completion body that change what is simulated."""

    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)] | None = None
    prompt: str | list[str] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stop: _Stop | list[_Stop] | None = None
    seed: int | None = None
    penstock_fault: Faults = Faults()


_body_decoder = msgspec.json.Decoder(Body)


def decode_body(body: bytes) -> Body:
    """The body's fields. Raises `InvalidRequest`."""
    try:
        return _body_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request's body has a wrong value: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request's body is not JSON: {error}") from None


def prompt_text(body: Body) -> str:
    """The prompt as one text: a chat is its messages with their roles, a line each. Raises `InvalidRequest`."""
    if body.messages is not None:
        return "\n".join(f"{message.role}: {_content(message)}" for message in body.messages)
    match body.prompt:
        case str(text):
            return text
        case [text]:
            return text
        case None:
            raise InvalidRequest("The request has no prompt: `messages` or `prompt` is required.")
        case _:
            raise InvalidRequest("`prompt` must be one text, not a list of several.")


def _content(message: _Message) -> str:
    if isinstance(message.content, list):
        return "".join(part.text for part in message.content if part.type == "text")
    return message.content or ""
