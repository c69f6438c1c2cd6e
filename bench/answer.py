"""What a client got for one request, by the official client: in one piece or as a stream, chat or completion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from openai import OpenAI

Api = Literal["chat", "completion"]

# What the client sends by names of its own; the rest of a body are the engine's extras, for its `extra_body`.
KNOWN = {
    *(
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
    ),
    *(
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "echo",
        "suffix",
    ),
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "stream_options"),
}

LOGPROB_TOLERANCE = 1e-4
"""Between two float32 computations of one value in batches of different shapes."""


class TokenProbability(NamedTuple):
    """One token with its logprob and those of the likeliest ones in its place."""

    token: str
    logprob: float
    top: list[tuple[str, float]]


@dataclass
class Part:
    """One choice. A call is its name and its arguments: ids are random."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[TokenProbability] = field(default_factory=list)


@dataclass
class Answer:
    """All choices of a request, and what it was charged."""

    parts: list[Part] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def part(self, index: int) -> Part:
        """A choice begins with its first piece."""
        while index >= len(self.parts):
            self.parts.append(Part())
        return self.parts[index]

    @property
    def finish_reasons(self) -> list[str | None]:
        """Of each choice."""
        return [part.finish_reason for part in self.parts]


def ask(client: OpenAI, api: Api, body: dict[str, Any], **headers: str) -> Answer:
    """The answer in one piece."""
    given = _create(client, api)(**_arguments(body), extra_headers=headers)
    answer = Answer()
    for choice in given.choices:
        part = answer.part(choice.index)
        _add(part, choice, choice.message if api == "chat" else choice)
    _count(answer, given.usage)
    return answer


def stream(
    client: OpenAI, api: Api, body: dict[str, Any], on_chunk: Callable[[Any], None] = lambda chunk: None
) -> Answer:
    """The answer as a stream; `on_chunk` is called with each chunk as it comes."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks: Iterable[Any] = _create(client, api)(**_arguments(body), **options)
    answer = Answer()
    for chunk in chunks:
        on_chunk(chunk)
        for choice in chunk.choices:
            _add(answer.part(choice.index), choice, choice.delta if api == "chat" else choice)
        if chunk.usage is not None:
            _count(answer, chunk.usage)
    return answer


def differences(one: Answer, other: Answer) -> list[str]:
    """In what two answers differ; nothing: they are the same."""
    found = [
        name for name in ("prompt_tokens", "completion_tokens") if getattr(one, name) != getattr(other, name)
    ]
    if len(one.parts) != len(other.parts):
        return [*found, "number of choices"]
    for first, second in zip(one.parts, other.parts, strict=True):
        names = ("text", "reasoning", "calls", "finish_reason", "stop_reason")
        found += [name for name in names if getattr(first, name) != getattr(second, name)]
        if not _about_equal(first.logprobs, second.logprobs):
            found.append("logprobs")
    return found


def _about_equal(one: list[TokenProbability], other: list[TokenProbability]) -> bool:
    return len(one) == len(other) and all(
        first.token == second.token
        and [token for token, _ in first.top] == [token for token, _ in second.top]
        and all(abs(a - b) <= LOGPROB_TOLERANCE for a, b in zip(_values(first), _values(second), strict=True))
        for first, second in zip(one, other, strict=True)
    )


def _values(told: TokenProbability) -> list[float]:
    return [told.logprob, *(logprob for _, logprob in told.top)]


def _create(client: OpenAI, api: Api) -> Callable[..., Any]:
    return client.chat.completions.create if api == "chat" else client.completions.create


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    extra = {name: value for name, value in body.items() if name not in KNOWN}
    return {name: value for name, value in body.items() if name in KNOWN} | {"extra_body": extra}


def _add(part: Part, choice: Any, said: Any) -> None:
    """`said` is a message, a delta, or the choice of a completion itself."""
    part.text += getattr(said, "content", None) or getattr(said, "text", None) or ""
    part.reasoning += getattr(said, "reasoning", None) or getattr(said, "reasoning_content", None) or ""
    for place, call in enumerate(getattr(said, "tool_calls", None) or []):
        index = getattr(call, "index", place)
        while index >= len(part.calls):
            part.calls.append(["", ""])
        part.calls[index][0] += call.function.name or ""
        part.calls[index][1] += call.function.arguments or ""
    part.finish_reason = choice.finish_reason or part.finish_reason
    part.stop_reason = getattr(choice, "stop_reason", None) or part.stop_reason
    if choice.logprobs is not None:
        part.logprobs += _probabilities(choice.logprobs)


def _probabilities(told: Any) -> list[TokenProbability]:
    content = getattr(told, "content", None)
    if content is not None:
        return [
            TokenProbability(one.token, one.logprob, [(top.token, top.logprob) for top in one.top_logprobs])
            for one in content
        ]
    tops = told.top_logprobs or [None] * len(told.tokens)
    return [
        TokenProbability(token, logprob, list((top or {}).items()))
        for token, logprob, top in zip(told.tokens, told.token_logprobs, tops, strict=True)
    ]


def _count(answer: Answer, usage: Any) -> None:
    answer.prompt_tokens = usage.prompt_tokens
    answer.completion_tokens = usage.completion_tokens
