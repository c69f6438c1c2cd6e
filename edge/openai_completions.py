"""OpenAI's completion shapes as ready bytes: everything but the text is encoded once per request. Pure."""

from __future__ import annotations

import msgspec

from edge.errors import DONE
from edge.openai_chat import finish_reasons, usage_of
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import Delta, End

_encode = msgspec.json.Encoder().encode


class CompletionShape:
    """`created` is in Unix seconds; `model` is the name the client knows it by."""

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        common = _encode(
            {"id": f"cmpl-{rid}", "object": "text_completion", "created": created, "model": model}
        )
        self._head = common[:-1] + b',"choices":['
        self._chunk = b"data: " + self._head
        self._choice = self._chunk + b'{"index":'

    def opening(self) -> bytes:
        """Nothing: completions have no role."""
        return b""

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
            b'id: %d-%d\n%b%d,"text":"","logprobs":null,"finish_reason":%b}]}\n\n'
            % (offset + 1, choice, self._choice, choice, _encode(reason))
            for choice, reason in enumerate(finishes)
        ]
        if self._include_usage:
            usage = _encode(usage_of(end, offset))
            frames.append(b'id: %d-%d\n%b],"usage":%b}\n\n' % (offset + 1, len(finishes), self._chunk, usage))
        return b"".join([*frames, DONE])

    def whole(self, choices: list[Choice], end: End, offset: int) -> bytes:
        """The answer of a request that does not stream."""
        listed = [
            {
                "index": choice,
                "text": choices[choice].text if choice < len(choices) else "",
                "logprobs": None,
                "finish_reason": reason,
            }
            for choice, reason in enumerate(finish_reasons(end))
        ]
        # The prefix ends with the bracket that the list brings itself.
        return self._head[:-1] + _encode(listed) + b',"usage":' + _encode(usage_of(end, offset)) + b"}"

    def _event(self, offset: int, index: int, delta: Delta) -> bytes:
        return b'id: %d-%d\n%b%d,"text":%b,"logprobs":null,"finish_reason":null}]}\n\n' % (
            offset,
            index,
            self._choice,
            delta.choice,
            _encode(delta.text),
        )
