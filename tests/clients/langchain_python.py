"""langchain-openai."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.clients.calling import MODEL, PROMPT, TOKENS, Piece, main


def client(url: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{url}/v1", api_key="unused", model=MODEL, max_retries=0, timeout=30, **fields
    )


@tool  # type: ignore[untyped-decorator]
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def invoke(url: str) -> None:
    answer = client(url, max_tokens=TOKENS).invoke(PROMPT)
    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == TOKENS


def stream_text(url: str) -> None:
    whole = client(url, max_tokens=TOKENS).invoke(PROMPT)
    assert (
        "".join(str(chunk.content) for chunk in client(url, max_tokens=TOKENS).stream(PROMPT))
        == whole.content
    )


def tools(url: str) -> None:
    answer = client(url, max_tokens=200).bind_tools([weather], tool_choice="any").invoke(PROMPT)
    assert [call["name"] for call in answer.tool_calls] + [
        call["name"] for call in answer.invalid_tool_calls
    ] == ["weather"]


def responses(url: str) -> None:
    answer = client(url, max_tokens=TOKENS, use_responses_api=True).invoke(PROMPT)
    assert answer.text


def batch(url: str) -> None:
    assert all(answer.content for answer in client(url, max_tokens=4).batch(["one", "two", "three"]))


def embeddings(url: str) -> None:
    embedder = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="unused", model=MODEL, check_embedding_ctx_length=False
    )
    assert len(embedder.embed_documents(["one", "two"])) == 2


def stream(
    url: str, prompt: str, tokens: int, headers: dict[str, str], fields: dict[str, Any]
) -> Iterator[Piece]:
    for chunk in client(url, max_tokens=tokens, default_headers=headers, extra_body=fields).stream(prompt):
        yield str(chunk.id or "").removeprefix("chatcmpl-"), str(chunk.content)


CALLS = [invoke, stream_text, tools, responses, batch, embeddings]

if __name__ == "__main__":
    main(CALLS, stream)
