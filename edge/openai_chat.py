"""OpenAI's chat shapes as ready bytes: everything but the text is encoded once per request. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.errors import DONE
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import Delta, End

_encode = msgspec.json.Encoder().encode


class ChatShape:
    """`created` is in Unix seconds; `model` is the name the client knows it by."""

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        self._id = f"chatcmpl-{rid}"
        self._model = model
        self._created = created
        self._include_usage = include_usage
        common = _encode(
            {"id": self._id, "object": "chat.completion.chunk", "created": created, "model": model}
        )
        self._chunk = b"data: " + common[:-1] + b',"choices":['
        self._choice = self._chunk + b'{"index":'

    def opening(self) -> bytes:
        """The role delta, before any text."""
        return b'id: 0-0\n%b0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n' % (
            self._choice
        )

    def tokens(self, tokens: Tokens) -> bytes:
        """One event for each delta of a record."""
        deltas = tokens.deltas
        if len(deltas) == 1:
            return self._event(tokens.offset, tokens.first, deltas[0])
        return b"".join(
            [self._event(tokens.offset, index, delta) for index, delta in enumerate(deltas, tokens.first)]
        )

    def ending(self, end: End, offset: int) -> bytes:
        """The finish chunk of each choice, the usage chunk if it was asked for, and the last line."""
        finishes = finish_reasons(end)
        frames = [
            b'id: %d-%d\n%b%d,"delta":{},"finish_reason":%b}]}\n\n'
            % (offset + 1, choice, self._choice, choice, _encode(reason))
            for choice, reason in enumerate(finishes)
        ]
        if self._include_usage:
            usage = _encode(usage_of(end, offset))
            frames.append(b'id: %d-%d\n%b],"usage":%b}\n\n' % (offset + 1, len(finishes), self._chunk, usage))
        return b"".join([*frames, DONE])

    def whole(self, choices: list[Choice], end: End, offset: int) -> bytes:
        """The answer of a request that does not stream."""
        return _encode(
            {
                "id": self._id,
                "object": "chat.completion",
                "created": self._created,
                "model": self._model,
                "choices": [
                    {
                        "index": choice,
                        "message": {
                            "role": "assistant",
                            "content": choices[choice].text if choice < len(choices) else "",
                        },
                        "logprobs": None,
                        "finish_reason": reason,
                    }
                    for choice, reason in enumerate(finish_reasons(end))
                ],
                "usage": usage_of(end, offset),
            }
        )

    def _event(self, offset: int, index: int, delta: Delta) -> bytes:
        return b'id: %d-%d\n%b%d,"delta":{"content":%b},"finish_reason":null}]}\n\n' % (
            offset,
            index,
            self._choice,
            delta.choice,
            _encode(delta.text),
        )


def finish_reasons(end: End) -> list[str]:
    """Why each choice ended; every request has at least one."""
    return end.finish_reasons or ["stop"]


def usage_of(end: End, offset: int) -> dict[str, Any]:
    """OpenAI's usage object; `offset` tokens were passed on."""
    prompt_tokens = end.usage.prompt_tokens if end.usage else 0
    completion_tokens = end.usage.completion_tokens if end.usage else offset
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
