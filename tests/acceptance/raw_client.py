"""A client that sees what the official one hides: event ids, headers, and where its connection was cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

from bench.transcript import MODEL

PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
TIMEOUT_S = 60.0


class Event(NamedTuple):
    """One event: its id ("" if it has none), its text, and its error code ("" if it is no error)."""

    id: str
    text: str
    error: str


def body_of(prompt: str, tokens: int, dialect: str = "chat", **fields: object) -> dict[str, Any]:
    """A streaming request's body."""
    asked = (
        {"prompt": prompt} if dialect == "completion" else {"messages": [{"role": "user", "content": prompt}]}
    )
    return {"model": MODEL, "max_tokens": tokens, "stream": True, **asked, **fields}


@contextmanager
def post(
    url: str, body: dict[str, Any], dialect: str = "chat", **headers: str
) -> Iterator[tuple[httpx.Response, Iterator[Event]]]:
    """The answer to a new request and its events; leaving the block closes the connection, wherever the stream is."""
    with (
        httpx.Client(timeout=TIMEOUT_S) as http,
        http.stream("POST", url + PATHS[dialect], json=body, headers=_named(headers)) as answer,
    ):
        yield answer, events(answer)


@contextmanager
def attach(
    url: str, rid: str, after: str = "", *, by_query: bool = False, **headers: str
) -> Iterator[tuple[httpx.Response, Iterator[Event]]]:
    """The stream of a request that is there, after the event `after`."""
    query = {"starting_after": after} if by_query and after else {}
    place = {"last-event-id": after} if after and not by_query else {}
    with (
        httpx.Client(timeout=TIMEOUT_S) as http,
        http.stream(
            "GET", f"{url}/v1/requests/{rid}/stream", params=query, headers={**_named(headers), **place}
        ) as answer,
    ):
        yield answer, events(answer)


def events(answer: httpx.Response) -> Iterator[Event]:
    """The events as they come, without `[DONE]`; nothing for an answer that is no stream."""
    event_id = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            event_id = value
        elif field == "data" and value != "[DONE]":
            chunk = json.loads(value)
            error = chunk.get("error") or {}
            yield Event(event_id, _text(chunk), str(error.get("code") or ""))


def state(url: str, rid: str) -> dict[str, Any]:
    """What `GET /v1/requests/{rid}` says; `{"status": 404}` and the like when it refuses."""
    answer = httpx.get(f"{url}/v1/requests/{rid}", timeout=TIMEOUT_S)
    return dict(answer.json()) if answer.status_code == 200 else {"status": answer.status_code}


def cancel(url: str, rid: str) -> dict[str, Any]:
    """What `DELETE /v1/requests/{rid}` says."""
    answer = httpx.delete(f"{url}/v1/requests/{rid}", timeout=TIMEOUT_S)
    return dict(answer.json()) if answer.status_code == 200 else {"status": answer.status_code}


def _text(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices", [])
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
