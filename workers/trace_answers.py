"""A request and its answer in the words of OpenTelemetry's conventions for generative AI. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from infra import trace_names as names
from infra.tracing import Value
from schemas.dispatch import WorkItem
from schemas.log import Fold
from schemas.output import Status, Usage
from workers.engines.base import Capabilities

CONTENT_CHARS_MAX = 100_000
"""Of a prompt or an answer, where they are told at all: what viewers still show."""

STOPS_MAX = 16
WORD_CHARS_MAX = 200
"""Of what a client names: its body may be nothing but that, and thousands of spans wait where a collector is away."""


class Asked(msgspec.Struct):
    """What a client asked for. Its values are the client's own, so they may be anything."""

    model: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    seed: Any = None
    stream: Any = None
    n: Any = None
    stop: Any = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()

    @property
    def operation(self) -> str:
        """The convention's word for what the model does."""
        if self.messages:
            return "chat"
        return "embeddings" if self.input and not self.prompt else "text_completion"


class Told(msgspec.Struct):
    """What an END says, as far as it is told here."""

    status: Status
    nonce: str = ""
    reason: str = ""
    n: int | None = None
    usage: Usage | None = None
    finish_reasons: list[str] = []


_asked = msgspec.json.Decoder(Asked)
_told = msgspec.json.Decoder(Told)


def asked_of(body: bytes) -> Asked:
    """Reads a body; one that is no JSON object asks for nothing."""
    try:
        return _asked.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Asked()


def told_of(end: bytes) -> Told:
    """Reads an END."""
    return _told.decode(end)


def asked_attributes(
    asked: Asked, item: WorkItem, capabilities: Capabilities, model: str
) -> dict[str, Value]:
    """What was asked of which model."""
    found: dict[str, Value] = {
        names.GEN_AI_OPERATION: asked.operation,
        names.GEN_AI_PROVIDER: capabilities.engine,
        names.GEN_AI_REQUEST_MODEL: asked.model[:WORD_CHARS_MAX] if isinstance(asked.model, str) else model,
        names.GEN_AI_RESPONSE_MODEL: model,
        names.GEN_AI_RESPONSE_ID: item.rid,
    }
    max_tokens = item.meta.max_tokens or asked.max_completion_tokens or asked.max_tokens
    wanted = (
        (names.GEN_AI_REQUEST_MAX_TOKENS, max_tokens, int),
        (names.GEN_AI_REQUEST_TEMPERATURE, asked.temperature, (int, float)),
        (names.GEN_AI_REQUEST_TOP_P, asked.top_p, (int, float)),
        (names.GEN_AI_REQUEST_TOP_K, asked.top_k, (int, float)),
        (names.GEN_AI_REQUEST_SEED, asked.seed, int),
        (names.GEN_AI_REQUEST_STREAM, asked.stream, bool),
        (names.GEN_AI_REQUEST_CHOICES, asked.n, int),
    )
    found |= {name: value for name, value, kind in wanted if isinstance(value, kind)}
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop
    if isinstance(stops, list) and all(isinstance(stop, str) for stop in stops):
        found[names.GEN_AI_REQUEST_STOPS] = [stop[:WORD_CHARS_MAX] for stop in stops[:STOPS_MAX]]
    return found


def answer_attributes(told: Told) -> dict[str, Value]:
    """What came of it. Only for whoever wrote this END: usage is told once."""
    found: dict[str, Value] = {names.GEN_AI_RESPONSE_FINISH: told.finish_reasons}
    if told.usage is not None:
        counts = (
            (names.GEN_AI_USAGE_INPUT, told.usage.prompt_tokens),
            (names.GEN_AI_USAGE_OUTPUT, told.usage.completion_tokens),
            (names.GEN_AI_USAGE_CACHED, told.usage.cached_tokens),
            (names.GEN_AI_USAGE_REASONING, told.usage.reasoning_tokens),
        )
        found |= {name: count for name, count in counts if count is not None}
    return found


def content_attributes(asked: Asked, answer: Fold) -> dict[str, Value]:
    """What was said."""
    given = asked.messages or asked.prompt or asked.input
    said = msgspec.json.encode([{"role": "assistant", "content": text} for text in answer.texts])
    return {
        names.GEN_AI_INPUT: bytes(given).decode("utf-8", "replace")[:CONTENT_CHARS_MAX],
        names.GEN_AI_OUTPUT: said.decode()[:CONTENT_CHARS_MAX],
    }
