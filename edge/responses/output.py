"""The items of a response's output as they grow: each delta of a log belongs to one of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edge.openai_shape import logprob_of
from schemas.output import TokenLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


@dataclass
class Message:
    """What is shown as the answer."""

    id: str
    index: int
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def part(self) -> dict[str, Any]:
        """Its one part."""
        return {
            "type": "output_text",
            "text": "".join(self.pieces),
            "annotations": [],
            "logprobs": list(self.logprobs),
        }

    def shown(self, status: ItemStatus) -> dict[str, Any]:
        """The item; it has no part before there is something to put into it."""
        content = [] if status == "in_progress" and not self.pieces else [self.part()]
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


@dataclass
class Thoughts:
    """What a model said to itself before it."""

    id: str
    index: int
    pieces: list[str] = field(default_factory=list)

    def part(self) -> dict[str, Any]:
        """Its one part."""
        return {"type": "reasoning_text", "text": "".join(self.pieces)}

    def shown(self, status: ItemStatus) -> dict[str, Any]:
        """The item; nobody summarizes it."""
        content = [] if status == "in_progress" and not self.pieces else [self.part()]
        return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}


@dataclass
class CallItem:
    """A function that the client shall call."""

    id: str
    index: int
    call_id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """JSON, as far as it is there."""
        return "".join(self.pieces)

    def shown(self, status: ItemStatus) -> dict[str, Any]:
        """The item."""
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
        }


def shown_logprob(told: TokenLogprob) -> dict[str, Any]:
    """A token's, with those of the likeliest in its place."""
    return {**_shown(told), "top_logprobs": [_shown(likely) for likely in told.top]}


def _shown(told: TokenLogprob) -> dict[str, Any]:
    spelled = list(told.token.encode()) if told.bytes is None else told.bytes
    return {"token": told.token, "logprob": logprob_of(told), "bytes": spelled}
