"""The litellm SDK, as an OpenAI client and as an Anthropic one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import litellm

from tests.clients.calling import MODEL, PROMPT, TOKENS, Piece, main

MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]
litellm.drop_params = True


def asked(url: str) -> dict[str, Any]:
    return {
        "model": f"openai/{MODEL}",
        "api_base": f"{url}/v1",
        "api_key": "unused",
        "max_tokens": TOKENS,
        "max_retries": 0,
    }


def completion(url: str) -> None:
    answer: Any = litellm.completion(messages=MESSAGES, **asked(url))
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == TOKENS


def completion_stream(url: str) -> None:
    whole: Any = litellm.completion(messages=MESSAGES, **asked(url))
    chunks: Any = litellm.completion(messages=MESSAGES, stream=True, **asked(url))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content


def responses(url: str) -> None:
    answer: Any = litellm.responses(
        model=f"openai/{MODEL}",
        input=PROMPT,
        api_base=f"{url}/v1",
        api_key="unused",
        max_output_tokens=TOKENS,
    )
    assert answer.output


def anthropic(url: str) -> None:
    answer: Any = litellm.completion(
        model=f"anthropic/{MODEL}", messages=MESSAGES, api_base=url, api_key="unused", max_tokens=TOKENS
    )
    assert answer.choices[0].message.content


def embedding(url: str) -> None:
    answer: Any = litellm.embedding(
        model=f"openai/{MODEL}", input=["one", "two"], api_base=f"{url}/v1", api_key="unused"
    )
    assert len(answer.data) == 2


def errors(url: str) -> None:
    try:
        litellm.completion(messages=MESSAGES, **asked(url) | {"model": "openai/nobody"})
    except litellm.NotFoundError:
        return
    raise AssertionError("no NotFoundError")


def stream(
    url: str, prompt: str, tokens: int, headers: dict[str, str], fields: dict[str, Any]
) -> Iterator[Piece]:
    wishes = {"max_tokens": tokens, "extra_headers": headers, "extra_body": fields, "stream": True}
    turn = [{"role": "user", "content": prompt}]
    chunks: Any = litellm.completion(messages=turn, **asked(url) | wishes)
    for chunk in chunks:
        yield chunk.id.removeprefix("chatcmpl-"), chunk.choices[0].delta.content or ""


CALLS = [completion, completion_stream, responses, anthropic, embedding, errors]

if __name__ == "__main__":
    main(CALLS, stream)
