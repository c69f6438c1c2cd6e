"""OpenAI's embeddings shape: the engine's own answer, under the name that the client knows the model by. Pure."""

from __future__ import annotations

import msgspec

from edge.dialect import KEEP_ALIVE, Elapsed
from edge.errors import DONE, Problem, error_frame
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import End

_NOTHING = b'{"object":"list","data":[]}'
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class EmbeddingShape:
    """Nothing is generated, so there is nothing to stream: who reads it as a stream gets one event with the answer."""

    keep_alive = KEEP_ALIVE

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        self._model = model

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def tokens(self, tokens: Tokens) -> bytes:
        """Nothing."""
        return b""

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The answer, and the last line."""
        # An event's data is one line, whatever the engine's JSON looks like.
        line = msgspec.json.format(self.whole([], end, offset), indent=-1)
        return b"id: %d-0\ndata: %b\n\n%b" % (offset + 1, line, DONE)

    def failing(self, problem: Problem, rid: str) -> bytes:
        """The error, and the last line."""
        return error_frame(problem, rid)

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The engine's answer. One that tells none has embedded nothing."""
        fields = _fields.decode(_NOTHING if end.result is msgspec.UNSET else end.result)
        if self._model:
            fields["model"] = msgspec.Raw(msgspec.json.encode(self._model))
        return msgspec.json.encode(fields)
