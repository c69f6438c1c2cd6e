"""A client of the reference systems: plain HTTP, as their own scripts ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.system import System
from bench.transcript import MODEL
from workers.engines.simulator import prompt_of, reference_text

TIMEOUT_S = 60.0
CHAT = "/v1/chat/completions"


class Event(NamedTuple):
    """One server-sent event: its name ("" if it has none) and its data."""

    name: str
    data: dict[str, Any]


def user(text: str) -> list[dict[str, Any]]:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


def chat_body(text: str, tokens: int, **fields: object) -> dict[str, Any]:
    """A chat's body."""
    return {"model": MODEL, "messages": user(text), "max_tokens": tokens, **fields}


def post(system: System | str, path: str, body: object, **headers: str) -> httpx.Response:
    """One answer, whole."""
    url = system if isinstance(system, str) else system.url
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(url + path, json=body, headers=named, timeout=TIMEOUT_S)


def get(system: System, path: str, **headers: str) -> httpx.Response:
    """One page."""
    return httpx.get(system.url + path, headers=headers, timeout=TIMEOUT_S)


def events_of(answer: httpx.Response) -> Iterator[Event]:
    """The events of a stream, but for OpenAI's last line."""
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data" and value != "[DONE]":
            yield Event(name, json.loads(value))
            name = ""


@contextmanager
def occupied(system: System, count: int) -> Iterator[None]:
    """`count` long streams that flow, and whose slots the leader knows to be taken; their clients leave at the end."""
    with ExitStack() as open_streams, httpx.Client(base_url=system.url, timeout=TIMEOUT_S) as http:
        for number in range(count):
            body = chat_body(f"long {number}", 3000, stream=True)
            answer = open_streams.enter_context(http.stream("POST", CHAT, json=body))
            lines = answer.iter_lines()
            open_streams.callback(lines.close)  # type: ignore[attr-defined]
            first = next(lines)
            assert first.startswith("id: 0-0"), first
        yield


def free_slots(system: System) -> int:
    """As the newest heartbeat has it."""
    return sum(int(model["free"]) for model in get(system, "/health").json()["models"])


def stream(system: System, path: str, body: object) -> tuple[httpx.Response, list[Event]]:
    """The head of a stream's answer, and all of its events."""
    with httpx.stream("POST", system.url + path, json=body, timeout=TIMEOUT_S) as answer:
        return answer, list(events_of(answer))


def completed(prompt: str, tokens: int) -> str:
    """The one right continuation of a text."""
    return reference_text(prompt_of(json.dumps({"prompt": prompt}).encode()), 0, tokens)


def answered(messages: list[dict[str, Any]], tokens: int) -> str:
    """The one right answer to a chat."""
    return reference_text(prompt_of(json.dumps({"messages": messages}).encode()), 0, tokens)


def scraped(text: str) -> dict[str, float]:
    """Every sample of a metrics page, as `name{label="value"}`; it fails where Prometheus would."""
    return {
        sample.name + "".join(f'{{{key}="{value}"}}' for key, value in sorted(sample.labels.items())): float(
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
