"""How many tokens a message's prompt has: the shape of an answer that nobody reads for its text. Pure."""

from __future__ import annotations

import msgspec

from edge.anthropic.errors import error_event
from edge.anthropic.shape import PING
from edge.dialect import Elapsed
from edge.errors import Problem
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import End


class TokenCount(msgspec.Struct):
    """The whole prompt: system, tools, messages and what the template puts around them."""

    input_tokens: int


class CountShape:
    """There is no tokenizer at the edge and no second truth about templates: the engine that would answer is asked for
    one token, and tells what the prompt was. So a count is exact, waits in the queue like any request, and costs one
    prefill, which leaves the prompt in the engine's cache for the message that follows. An engine that tells no usage
    has counted 0; a prompt that leaves no room for a single token is refused as too long."""

    keep_alive = PING

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        pass

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def tokens(self, tokens: Tokens) -> bytes:
        """Nothing."""
        return b""

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The count, for who reads it as a stream."""
        return b"id: %d-0\nevent: token_count\ndata: %b\n\n" % (offset + 1, self.whole([], end, offset))

    def failing(self, problem: Problem, rid: str) -> bytes:
        """The error."""
        return error_event(problem, rid)

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The count."""
        return msgspec.json.encode(TokenCount(end.usage.prompt_tokens if end.usage else 0))
