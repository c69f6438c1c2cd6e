"""What the choices of a request have put out: the sum of their deltas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.output import Delta, TokenLogprob, ToolPiece


@dataclass
class ToolCall:
    """One call that a choice asks for; the pieces of its arguments make one JSON text."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """The JSON text so far."""
        return "".join(self.pieces)


@dataclass
class Choice:
    """One choice so far: pieces of its text and of its reasoning, its tool calls, the logprobs of its tokens."""

    pieces: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    tools: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Takes in the next delta of this choice."""
        if delta.text:
            self.pieces.append(delta.text)
        if delta.reasoning:
            self.thoughts.append(delta.reasoning)
        for piece in delta.tools:
            while piece.index >= len(self.tools):
                self.tools.append(ToolCall())
            call = self.tools[piece.index]
            call.id += piece.id
            call.name += piece.name
            if piece.arguments:
                call.pieces.append(piece.arguments)
        self.logprobs.extend(delta.logprobs)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def reasoning(self) -> str:
        """The whole reasoning."""
        return "".join(self.thoughts)

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but text."""
        return not (self.thoughts or self.tools or self.logprobs)

    def whole(self, index: int) -> Delta:
        """All of it as one delta of choice `index`."""
        tools = [
            ToolPiece(number, call.id, call.name, call.arguments) for number, call in enumerate(self.tools)
        ]
        return Delta(self.text, index, self.reasoning, tools, list(self.logprobs))

    def copy(self) -> Choice:
        """Another one that grows on its own."""
        tools = [ToolCall(call.id, call.name, list(call.pieces)) for call in self.tools]
        return Choice(list(self.pieces), list(self.thoughts), tools, list(self.logprobs))


def add_deltas(choices: list[Choice], deltas: Iterable[Delta]) -> None:
    """Adds each delta to its choice; a choice begins with its first one that holds anything, because records leave out
    the others and all folds of a log must be equal."""
    for delta in deltas:
        if delta.choice >= len(choices):
            if not has_content(delta):
                continue
            choices.extend([Choice() for _ in range(delta.choice + 1 - len(choices))])
        choices[delta.choice].add(delta)


def has_content(delta: Delta) -> bool:
    """Whether there is anything in it."""
    return bool(delta.text or delta.reasoning or delta.tools or delta.logprobs)


def content_bytes(choices: list[Choice]) -> bytes:
    """What `End.sha256` is taken over, in UTF-8: the choices joined by a zero byte, of each its text, then, where there
    is any, byte 1 and its reasoning, and for each tool call byte 2, its name, byte 3 and its arguments."""
    return b"\0".join([_bytes_of(choice) for choice in choices])


def _bytes_of(choice: Choice) -> bytes:
    parts = [choice.text]
    if choice.thoughts:
        parts += ["\1", choice.reasoning]
    for call in choice.tools:
        parts += ["\2", call.name, "\3", call.arguments]
    return "".join(parts).encode()
