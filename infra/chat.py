"""`penstock chat`: one conversation in the terminal, over the same HTTP API that everyone uses."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
from rich.console import Console

# The server sends keep-alive comments every 15 s: this much silence is a dead connection.
TIMEOUT = httpx.Timeout(10.0, read=120.0)

# An edge hears of the models from the leader's heartbeat, every 0.5 s.
MODEL_WAIT_S = 5.0
MODEL_POLL_S = 0.1

Message = dict[str, str]


class ChatError(Exception):
    """The server cannot be reached, refused the request or broke off; the message says which."""


def chat_once(url: str, model: str | None, max_tokens: int | None, prompt: str) -> None:
    """Streams one answer to stdout and its speed to stderr. Raises `ChatError`."""
    with _client(url) as client:
        _say(client, model or _first_model(client), max_tokens, [{"role": "user", "content": prompt}])


def chat_session(url: str, model: str | None, max_tokens: int | None) -> None:
    """A conversation until Ctrl-D; the model sees all of it each time. Raises `ChatError`."""
    console = Console(stderr=True)
    with _client(url) as client:
        model = model or _first_model(client)
        console.print(f"{model} at {url}; Ctrl-D ends", style="dim", highlight=False)
        messages: list[Message] = []
        while True:
            try:
                prompt = console.input("[bold green]> [/]").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if prompt:
                messages.append({"role": "user", "content": prompt})
                answer = _say(client, model, max_tokens, messages)
                messages.append({"role": "assistant", "content": answer})


def _say(client: httpx.Client, model: str, max_tokens: int | None, messages: list[Message]) -> str:
    started = time.perf_counter()
    first: float | None = None
    pieces: list[str] = []
    tokens = 0
    for chunk in _stream(client, _body(model, max_tokens, messages)):
        for choice in chunk.get("choices") or ():
            if text := choice["delta"].get("content"):
                first = first or time.perf_counter()
                pieces.append(text)
                sys.stdout.write(text)
                sys.stdout.flush()
        if usage := chunk.get("usage"):
            tokens = usage["completion_tokens"]
    sys.stdout.write("\n")
    _print_speed(tokens, started, first)
    return "".join(pieces)


def _stream(client: httpx.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of an answer; ends only after `[DONE]`, since anything else is a broken stream."""
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise ChatError(_reason(response))
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if not line.startswith("data: "):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise ChatError(f"the answer broke off: {chunk['error']['message']}")
                yield chunk
    except httpx.HTTPError as error:
        raise ChatError(_unreachable(client, error)) from None
    raise ChatError("the answer broke off without an end")


def _body(model: str, max_tokens: int | None, messages: list[Message]) -> dict[str, Any]:
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **limit,
    }


def _first_model(client: httpx.Client) -> str:
    """The first model served; a system that has just started may take a moment to know one."""
    deadline = time.monotonic() + MODEL_WAIT_S
    while not (models := _models(client)):
        if time.monotonic() > deadline:
            raise ChatError(f"{client.base_url} serves no model yet; name one with --model")
        time.sleep(MODEL_POLL_S)
    return models[0]


def _models(client: httpx.Client) -> list[str]:
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise ChatError(_unreachable(client, error)) from None
    if response.is_error:
        raise ChatError(_reason(response))
    return [str(model["id"]) for model in response.json()["data"]]


def _reason(response: httpx.Response) -> str:
    """The server's own words, or its status where it has none."""
    try:
        return f"{response.status_code}: {response.json()['error']['message']}"
    except (ValueError, LookupError, TypeError):
        return f"the server answered with status {response.status_code}"


def _unreachable(client: httpx.Client, error: httpx.HTTPError) -> str:
    return (
        f"cannot talk to {client.base_url} ({str(error) or type(error).__name__}): is `penstock up` running?"
    )


def _print_speed(tokens: int, started: float, first: float | None) -> None:
    if first is None:
        return
    console = Console(stderr=True)
    # The first token's time is the wait before the stream; the rate is about the rest.
    seconds = time.perf_counter() - first
    rate = f"{(tokens - 1) / seconds:.1f} tok/s, " if tokens > 1 and seconds > 0 else ""
    ttft_ms = (first - started) * 1000
    console.print(f"{tokens} tokens, {rate}first after {ttft_ms:.0f} ms", style="dim", highlight=False)


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url.rstrip("/").removesuffix("/v1"), timeout=TIMEOUT, trust_env=False)
