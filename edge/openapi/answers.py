"""Answers of the OpenAI endpoints as types. They describe what `edge.openai_*` write by hand, and a test holds the two
together; nothing is encoded with them. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class PromptDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens, those that the engine had already."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """Of the output's tokens, those before the answer."""

    reasoning_tokens: int


class UsageAnswer(msgspec.Struct, frozen=True):
    """Tokens charged; each counts once, whatever was repeated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | UnsetType = UNSET
    completion_tokens_details: CompletionDetails | UnsetType = UNSET


class FunctionCall(msgspec.Struct, frozen=True):
    """`arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCallAnswer(msgspec.Struct, frozen=True):
    """A tool the model wants called."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class LikelyToken(msgspec.Struct, frozen=True):
    """`bytes` are those of its text in UTF-8."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenAnswer(msgspec.Struct, frozen=True):
    """A token of the output, and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[LikelyToken]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """One entry for each token."""

    content: list[TokenAnswer]


class ChatMessage(msgspec.Struct, frozen=True):
    """`content` is null where the model only called tools. `reasoning` is what it thought before."""

    role: Literal["assistant"]
    content: str | None
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallAnswer] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """`stop_reason` names the stop string or token that ended it, where one did."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True):
    """The answer of a chat that does not stream; `created` is in Unix seconds."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageAnswer


class FunctionPiece(msgspec.Struct, frozen=True):
    """The name comes once, the arguments in any pieces."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallPiece(msgspec.Struct, frozen=True):
    """A piece of call `index`; id and type come with the first."""

    index: int
    function: FunctionPiece
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallPiece] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """`finish_reason` is null until the choice ends."""

    index: int
    delta: ChatDelta
    finish_reason: str | None
    logprobs: ChatLogprobs | UnsetType = UNSET
    stop_reason: str | int | UnsetType = UNSET


class StatsAnswer(msgspec.Struct, frozen=True):
    """What an answer took, in a chunk with the usage, where anybody knows it."""

    completion_tokens: int
    first_token_ms: float | None
    total_ms: float
    tokens_per_second: float


class ChatChunk(msgspec.Struct, frozen=True):
    """One event of a chat's stream; the one with `usage` has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageAnswer | UnsetType = UNSET
    stats: StatsAnswer | UnsetType = UNSET


class TextLogprobs(msgspec.Struct, frozen=True):
    """One entry of each list for each token; null where there is nothing to compare a token with."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class TextChoice(msgspec.Struct, frozen=True):
    """`stop_reason` names the stop string or token that ended it, where one did."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str
    stop_reason: str | int | UnsetType = UNSET


class TextCompletion(msgspec.Struct, frozen=True):
    """The answer of a completion that does not stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageAnswer


class TextChunkChoice(msgspec.Struct, frozen=True):
    """`finish_reason` is null until the choice ends."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | UnsetType = UNSET


class TextChunk(msgspec.Struct, frozen=True):
    """One event of a completion's stream; the one with `usage` has no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: UsageAnswer | UnsetType = UNSET
    stats: StatsAnswer | UnsetType = UNSET


class Embedding(msgspec.Struct, frozen=True):
    """Numbers, or their little-endian 32-bit bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, frozen=True):
    """The engine's own answer, which may say more."""

    object: Literal["list"]
    data: list[Embedding]
    model: str | UnsetType = UNSET
    usage: dict[str, Any] | UnsetType = UNSET


class ModelAnswer(msgspec.Struct, frozen=True):
    """`max_model_len` bounds prompt and output together; `parent` is the model that an adapter is a variant of."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    parent: str | UnsetType = UNSET


class ModelList(msgspec.Struct, frozen=True):
    """All models that requests are queued for now."""

    object: Literal["list"]
    data: list[ModelAnswer]


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Ready(msgspec.Struct, frozen=True):
    """Whether a request that came now could be run."""

    ready: bool
