"""A client's request as it is asked of an OpenAI-compatible server: which path, and which fields are ours. Pure.

Values travel as the bytes the client sent; only names that are ours are set anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.requests import CHOICES_MAX, prompts_in
from workers.engines.base import EngineRequest
from workers.engines.seeds import seed_of
from workers.engines.upstream_final import FinalMessage, final_message

PATHS = {"messages": "chat/completions", "prompt": "completions", "input": "embeddings"}
"""What a body is, told by the field it has."""

OWN_PREFIX = "penstock_"
"""Fields that speak to Penstock are no business of the upstream."""

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class BadBody(Exception):
    """The client's mistake; the message tells it which field to change."""


class Upstream(msgspec.Struct, frozen=True):
    """What is known of the server: the model's name there, what a request that names no limit is cut at (0: as the
    server does it), and whether it tells token ids (vLLM does)."""

    model: str
    max_tokens_default: int = 0
    tells_ids: bool = False


class Call:
    """One request. Embeddings are asked for whole, everything else as a stream.

    `added` are our fields, which a server may refuse: usage at the end of the stream, token ids, and a seed where the
    client gave none, since without one a broken stream could never be made again.
    """

    def __init__(self, request: EngineRequest, upstream: Upstream) -> None:
        """Raises BadBody."""
        self._fields = _decoded(request.body)
        self.path = next((path for field, path in PATHS.items() if field in self._fields), "")
        if not self.path:
            raise BadBody("the body has neither messages nor prompt nor input")
        if "functions" in self._fields:
            raise BadBody("functions are not supported: use tools")
        self.streams = self.path != "embeddings"
        self.choices = self._choices()
        self._own: dict[str, msgspec.Raw] = {}
        self._prefix = request.prefix
        self._tells_ids = upstream.tells_ids
        self._fields["model"] = _raw(upstream.model)
        if self.streams:
            self._add_own(request.key, upstream)

    @property
    def added(self) -> tuple[str, ...]:
        """The names of our fields."""
        return tuple(self._own)

    def content(self, refused: dict[str, None]) -> bytes:
        """The body to send, without those of our fields that the server refuses."""
        return _encode(self.fields(refused))

    def fields(self, refused: dict[str, None]) -> dict[str, msgspec.Raw]:
        """The same, field by field."""
        return self._fields | {name: value for name, value in self._own.items() if name not in refused}

    def final_message(self) -> FinalMessage | None:
        """The answer so far, where it can be continued as the chat's final message."""
        is_greedy = self._tells_ids and self.choices == 1 and self._value("temperature") == 0
        return final_message(self._fields, self._prefix) if is_greedy else None

    def is_repeatable(self, refused: dict[str, None]) -> bool:
        """Whether the same answer may be expected once more."""
        has_seed = "seed" in self._fields or ("seed" in self._own and "seed" not in refused)
        return has_seed or self._value("temperature") == 0

    def _add_own(self, key: str, upstream: Upstream) -> None:
        fields, own = self._fields, self._own
        fields["stream"] = _raw(True)
        # The client's are for what it is shown, which is made elsewhere.
        fields.pop("stream_options", None)
        own["stream_options"] = _raw({"include_usage": True})
        if self._value("seed") is None:
            fields.pop("seed", None)
            own["seed"] = _raw(seed_of(key.rpartition(".")[2]))
        if upstream.tells_ids:
            fields.pop("return_token_ids", None)
            own["return_token_ids"] = _raw(True)
        is_limited = self._value("max_tokens") is not None or self._value("max_completion_tokens") is not None
        if upstream.max_tokens_default and not is_limited:
            fields["max_tokens"] = _raw(upstream.max_tokens_default)

    def _choices(self) -> int:
        of_each = self._value("n")
        if of_each is None:
            of_each = 1
        if not isinstance(of_each, int) or not 1 <= of_each <= CHOICES_MAX:
            raise BadBody(f"n must be a number from 1 to {CHOICES_MAX}")
        return of_each * max(1, self._prompts())

    def _prompts(self) -> int:
        """Texts of a completion; 0: it is none, or the upstream is to say what is wrong with it."""
        prompt = self._value("prompt") if self.path == "completions" else None
        return prompts_in(prompt) if isinstance(prompt, list) else 0

    def _value(self, field: str) -> Any:
        """A small field, decoded."""
        if field not in self._fields:
            return None
        try:
            return msgspec.json.decode(self._fields[field])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadBody(f"{field} cannot be read: {error}") from None


def _decoded(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        fields = _fields_of(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"the body is not a JSON object: {error}") from None
    return {name: value for name, value in fields.items() if not name.startswith(OWN_PREFIX)}


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))
