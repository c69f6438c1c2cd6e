"""pydantic-ai, with its OpenAI and its Anthropic models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from tests.clients.calling import MODEL, PROMPT, TOKENS, Piece, main

SETTINGS = ModelSettings(max_tokens=TOKENS)


def openai_model(url: str) -> OpenAIChatModel:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="unused"))


def run(url: str) -> None:
    result = Agent(openai_model(url)).run_sync(PROMPT, model_settings=SETTINGS)
    assert result.output
    assert result.usage.output_tokens == TOKENS


def stream_text(url: str) -> None:
    whole = Agent(openai_model(url)).run_sync(PROMPT, model_settings=SETTINGS).output
    result = Agent(openai_model(url)).run_stream_sync(PROMPT, model_settings=SETTINGS)
    assert "".join(result.stream_text(delta=True)) == whole


def responses(url: str) -> None:
    model = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="unused"))
    assert Agent(model).run_sync(PROMPT, model_settings=SETTINGS).output


def anthropic(url: str) -> None:
    model = AnthropicModel(MODEL, provider=AnthropicProvider(base_url=url, api_key="unused"))
    assert Agent(model).run_sync(PROMPT, model_settings=SETTINGS).output


def stream(
    url: str, prompt: str, tokens: int, headers: dict[str, str], fields: dict[str, Any]
) -> Iterator[Piece]:
    settings = ModelSettings(max_tokens=tokens, extra_headers=headers, extra_body=fields)
    result = Agent(openai_model(url)).run_stream_sync(prompt, model_settings=settings)
    for text in result.stream_text(delta=True, debounce_by=None):
        yield "", text


CALLS = [run, stream_text, responses, anthropic]

if __name__ == "__main__":
    main(CALLS, stream)
