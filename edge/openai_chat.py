"""OpenAI's chat shapes. Pure."""

from __future__ import annotations

from typing import Any

from edge.openai_shape import OpenAIShape, encode, logprob_of
from schemas.choices import Choice, ToolCall
from schemas.output import Delta, TokenLogprob, ToolPiece


class ChatShape(OpenAIShape):
    """Each choice opens with its role: the first one's has an event of its own before any text, because the others are
    not known of then; theirs comes in the event of their first delta, or in the one that says why they ended."""

    id_prefix = "chatcmpl"
    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        super().__init__(rid, model, created, include_usage=include_usage)
        self._opened = {0}

    def opening(self) -> bytes:
        """The role delta, before any text."""
        return b'id: 0-0\n%b0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n' % (
            self._choice
        )

    def _event(self, offset: int, index: int, delta: Delta) -> bytes:
        if delta.choice or delta.reasoning or delta.tools or delta.logprobs:
            fields = encode(self._fields(delta))[1:-1]
            return b'id: %d-%d\n%b%d,%b,"finish_reason":null}]}\n\n' % (
                offset,
                index,
                self._choice,
                delta.choice,
                fields,
            )
        return b'id: %d-%d\n%b0,"delta":{"content":%b},"finish_reason":null}]}\n\n' % (
            offset,
            index,
            self._choice,
            encode(delta.text),
        )

    def _nothing_more(self, choice: int) -> bytes:
        return b'"delta":%b' % encode({} if choice in self._opened else {"role": "assistant", "content": ""})

    def _content(self, choice: Choice) -> dict[str, Any]:
        text, is_text = choice.text, not (choice.thoughts or choice.tools)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or is_text else None}
        if choice.thoughts:
            message["reasoning"] = choice.reasoning
        if choice.tools:
            message["tool_calls"] = [_call(call) for call in choice.tools]
        return {"message": message, "logprobs": _logprobs(choice.logprobs) if choice.logprobs else None}

    def _fields(self, delta: Delta) -> dict[str, Any]:
        """Of the event of a delta that is more than the first choice's text."""
        shown: dict[str, Any] = {}
        if delta.choice not in self._opened:
            self._opened.add(delta.choice)
            shown["role"] = "assistant"
        if delta.reasoning:
            shown["reasoning"] = delta.reasoning
        if delta.text or not (delta.reasoning or delta.tools):
            shown["content"] = delta.text
        if delta.tools:
            shown["tool_calls"] = [_piece(piece) for piece in delta.tools]
        return {"delta": shown, "logprobs": _logprobs(delta.logprobs)} if delta.logprobs else {"delta": shown}


def _piece(piece: ToolPiece) -> dict[str, Any]:
    """A call's type comes with its id, and both, like its name, in its first piece only."""
    shown: dict[str, Any] = {"index": piece.index}
    if piece.id:
        shown |= {"id": piece.id, "type": "function"}
    name = {"name": piece.name} if piece.name else {}
    return shown | {"function": {**name, "arguments": piece.arguments}}


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _logprobs(told: list[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {**_logprob(logprob), "top_logprobs": [_logprob(likely) for likely in logprob.top]}
            for logprob in told
        ]
    }


def _logprob(told: TokenLogprob) -> dict[str, Any]:
    return {"token": told.token, "logprob": logprob_of(told), "bytes": told.bytes}
