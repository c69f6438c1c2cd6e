"""What the simulator makes beyond text: calls, logprobs, vectors. Each is a pure function, as the text is. Pure."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from schemas.output import TokenLogprob
from workers.engines.simulator_body import Body, InvalidRequest, Named, texts_of
from workers.engines.simulator_text import WORDS, text_of, token_at

THINKING_TOKENS = {"none": 0, "minimal": 2, "low": 4, "medium": 8, "high": 16, "xhigh": 32}
"""Tokens of reasoning before the answer, by `reasoning_effort`. Without that field there is none."""

CALL_TOKENS = 8
"""Length of a call's arguments: long enough to come in pieces."""

DIMENSIONS = 32
"""Of an embedding, where the request names no other number."""

_OPENING, _CLOSING = '{"text": "', '"}'

_SALT = 0x10690B
"""Sets what a token's logprob follows from apart from what the token itself does."""


def function_called(body: Body, key: int) -> str:
    """The function that is called in place of an answer; empty: none. Raises `InvalidRequest`."""
    names = [tool.function.name for tool in body.tools or []]
    match body.tool_choice:
        case "required":
            if not names:
                raise InvalidRequest("`tool_choice` is required, but there are no `tools`.")
            return names[key % len(names)]
        case Named(function=function):
            if function.name not in names:
                raise InvalidRequest(f"`tool_choice` names `{function.name}`, which is none of the `tools`.")
            return function.name
        case _:
            return ""


def piece_of_call(token: int, place: int) -> str:
    """The text of token `place` of a call's arguments, if that is `token`."""
    piece = text_of(token, place)
    if place == 0:
        return _OPENING + piece
    return piece + _CLOSING if place == CALL_TOKENS - 1 else piece


def call_id(key: int) -> str:
    """A call is the same one wherever it is made again."""
    return f"call_{key:016x}"


def logprob_at(key: int, place: int, token: int, piece_of: Callable[[int], str], top: int) -> TokenLogprob:
    """How likely `token` was at `place`, and the `top` likeliest ones: itself, then words next to it."""
    likely = -token_at(key ^ _SALT, place) / 100
    others = [
        _told(piece_of((token + rank) % len(WORDS)), round(likely - rank / 2, 2)) for rank in range(top)
    ]
    return msgspec.structs.replace(_told(piece_of(token), likely), top=others)


def embeddings(body: Body) -> tuple[msgspec.Raw, int]:
    """The answer to an embeddings request, and the tokens it read. Raises `InvalidRequest`."""
    texts = texts_of(body.input or [])
    if not texts:
        raise InvalidRequest("`input` must be a text, a list of texts, of tokens, or of lists of tokens.")
    tokens = sum([len(text.split()) for text in texts])
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(text, body)}
        for index, text in enumerate(texts)
    ]
    answer: dict[str, Any] = {
        "object": "list",
        "data": data,
        "model": body.model or "",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return msgspec.Raw(msgspec.json.encode(answer)), tokens


def _told(piece: str, logprob: float) -> TokenLogprob:
    return TokenLogprob(piece, logprob, list(piece.encode()))


def _vector(text: str, body: Body) -> list[float] | str:
    """A unit vector, in the precision that both encodings have."""
    count = body.dimensions or DIMENSIONS
    raw = struct.unpack(f"<{count}i", hashlib.shake_256(text.encode()).digest(4 * count))
    length = math.sqrt(sum([float(number) ** 2 for number in raw]))
    packed = struct.pack(f"<{count}f", *[number / length for number in raw])
    if body.encoding_format == "base64":
        return base64.b64encode(packed).decode()
    return list(struct.unpack(f"<{count}f", packed))
