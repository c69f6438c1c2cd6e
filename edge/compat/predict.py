"""`POST /v1/predict`: a chat in, one whole answer out, in llama.cpp's words. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from edge.compat.styles import PREDICT_ERRORS
from edge.dialect import KEEP_ALIVE, Asked, Dialect, Elapsed
from edge.errors import DONE, Problem
from edge.measures import tokens_of
from edge.openai_bodies import ChatBody, Message, Probability, Temperature, decode_as
from edge.relay import Tokens
from schemas.choices import Choice, add_deltas
from schemas.output import End

TOKENS_MAX = 2048
OWN_ID = "^[!-~]{1,255}$"
"""What an idempotency key may be."""


class TextPart(msgspec.Struct, tag="text", tag_field="type"):
    """Words."""

    text: str


class ImageUrl(msgspec.Struct, omit_defaults=True):
    """A `data:` URI, or a URL of a host that images are fetched from."""

    url: str
    detail: str | None = None


class ImagePart(msgspec.Struct, tag="image_url", tag_field="type"):
    """A picture."""

    image_url: ImageUrl


class Turn(msgspec.Struct):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[TextPart | ImagePart]


class PredictBody(msgspec.Struct):
    """`request_id` is the client's own name for the request: a second request of that name reads the first one's
    answer, and `GET /v1/result/{id}` finds it."""

    messages: Annotated[list[Turn], msgspec.Meta(min_length=1)]
    model: str | None = None
    request_id: Annotated[str, msgspec.Meta(pattern=OWN_ID)] | None = None
    system_prompt: str | None = None
    temperature: Temperature = 0.7
    top_p: Probability = 0.9
    n_predict: Annotated[int, msgspec.Meta(ge=1, le=TOKENS_MAX)] = 128


class Prediction(msgspec.Struct):
    """The answer. `tokens_evaluated` are the prompt's; `stop_type`: "eos", "word" (a stop string) or "limit"."""

    request_id: str
    content: str
    tokens_predicted: int
    tokens_evaluated: int
    stop: bool
    stop_type: str


class NamedChat(ChatBody, kw_only=True):
    """A chat that its client has a name for."""

    name: str = ""

    @property
    def given_id(self) -> str:
        return self.name


_decoder = msgspec.json.Decoder(PredictBody)
_encode = msgspec.json.Encoder().encode


def is_own_id(text: str) -> bool:
    """Whether a client could call a request that."""
    return re.fullmatch(OWN_ID, text) is not None


def read(data: bytes) -> Asked | Problem:
    """The chat that a body asks for."""
    body = decode_as(_decoder, data)
    if isinstance(body, Problem):
        return body
    turns = [*([Turn("system", body.system_prompt)] if body.system_prompt else []), *body.messages]
    chat: dict[str, Any] = {
        "messages": turns,
        "max_tokens": body.n_predict,
        "temperature": body.temperature,
        "top_p": body.top_p,
    }
    if body.model is not None:
        chat["model"] = body.model
    asked = NamedChat(
        model=body.model,
        messages=[Message(turn.role, msgspec.Raw(_encode(turn.content))) for turn in turns],
        max_tokens=body.n_predict,
        temperature=body.temperature,
        top_p=body.top_p,
        name=body.request_id or "",
    )
    return Asked(asked, _encode(chat))


class PredictShape:
    """Nothing streams here; who reads it as a stream all the same gets one event with the whole answer."""

    keep_alive = KEEP_ALIVE

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        self._id = rid
        self._choices: list[Choice] = []

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def tokens(self, tokens: Tokens) -> bytes:
        """Nothing yet."""
        add_deltas(self._choices, tokens.deltas)
        return b""

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The answer, and the last line."""
        whole = self.whole(self._choices, end, offset, elapsed)
        return b"id: %d-0\ndata: %b\n\n%b" % (offset + 1, whole, DONE)

    def failing(self, problem: Problem, rid: str) -> bytes:
        """The error, and the last line."""
        return b"data: %b\n\n%b" % (PREDICT_ERRORS.body(problem, rid), DONE)

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The answer."""
        return _encode(
            Prediction(
                request_id=self._id,
                content=choices[0].text if choices else "",
                tokens_predicted=tokens_of(end, offset),
                tokens_evaluated=end.usage.prompt_tokens if end.usage is not None else 0,
                stop=True,
                stop_type=_stop_type(end),
            )
        )


def _stop_type(end: End) -> str:
    if end.finish_reasons[:1] == ["length"]:
        return "limit"
    return "word" if end.stop_reasons and isinstance(end.stop_reasons[0], str) else "eos"


PREDICT = Dialect("predict", read, PredictShape, PREDICT_ERRORS)
