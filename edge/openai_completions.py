"""OpenAI's completion shapes. Pure."""

from __future__ import annotations

from typing import Any

from edge.openai_shape import OpenAIShape, encode, logprob_of
from schemas.choices import Choice
from schemas.output import Delta, TokenLogprob


class CompletionShape(OpenAIShape):
    """Completions have no roles, thoughts or calls: text and its logprobs are all there is to show."""

    id_prefix = "cmpl"
    chunk_object = "text_completion"
    whole_object = "text_completion"

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        super().__init__(rid, model, created, include_usage=include_usage)
        self._text_offsets: dict[int, int] = {}

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def _event(self, offset: int, index: int, delta: Delta) -> bytes:
        if delta.logprobs:
            return b'id: %d-%d\n%b%d,"text":%b,"logprobs":%b,"finish_reason":null}]}\n\n' % (
                offset,
                index,
                self._choice,
                delta.choice,
                encode(delta.text),
                self._next_logprobs(delta),
            )
        return b'id: %d-%d\n%b%d,"text":%b,"logprobs":null,"finish_reason":null}]}\n\n' % (
            offset,
            index,
            self._choice,
            delta.choice,
            encode(delta.text),
        )

    def _nothing_more(self, choice: int) -> bytes:
        return b'"text":"","logprobs":null'

    def _content(self, choice: Choice) -> dict[str, Any]:
        logprobs = _logprobs(choice.logprobs, 0) if choice.logprobs else None
        return {"text": choice.text, "logprobs": logprobs}

    def _next_logprobs(self, delta: Delta) -> bytes:
        begin = self._text_offsets.get(delta.choice, 0)
        shown = _logprobs(delta.logprobs, begin)
        self._text_offsets[delta.choice] = shown["text_offset"][-1] + len(shown["tokens"][-1])
        return encode(shown)


def _logprobs(told: list[TokenLogprob], begin: int) -> dict[str, Any]:
    """The legacy shape. Offsets that the engine does not tell are counted from `begin` on, a token's text each."""
    offsets: list[int] = []
    for logprob in told:
        at = begin if logprob.text_offset is None else logprob.text_offset
        offsets.append(at)
        begin = at + len(logprob.token)
    return {
        "text_offset": offsets,
        "token_logprobs": [logprob.logprob for logprob in told],
        "tokens": [logprob.token for logprob in told],
        "top_logprobs": [_top(logprob) for logprob in told],
    }


def _top(told: TokenLogprob) -> dict[str, float] | None:
    """A token that has no logprob itself has nothing to be compared with either."""
    if told.logprob is None:
        return None
    return {likely.token: logprob_of(likely) for likely in told.top}
