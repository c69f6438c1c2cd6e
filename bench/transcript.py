"""A streamed answer as its client saw it, with the time of every piece."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from openai import OpenAI

from workers.engines.simulator import reference_text

MODEL = "penstock-sim"


class Transcript(NamedTuple):
    """What one client got. `stall_s` is the longest silence between two pieces."""

    text: str
    finish_reason: str | None
    completion_tokens: int
    rid: str
    stall_s: float


def expected(prompt: str, tokens: int, seed: int = 0) -> str:
    """The one right answer to a chat of one user message."""
    return reference_text(f"user: {prompt}", seed, tokens)


def client(url: str) -> OpenAI:
    """The official client, unchanged but for the address; without its own retries, which would hide a failure."""
    return OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)


def stream(
    url: str, prompt: str, tokens: int, on_piece: Callable[[str, int], None] = lambda rid, pieces: None
) -> Transcript:
    """Streams one chat; `on_piece(rid, pieces so far)` is called after each piece of text."""
    pieces: list[str] = []
    finish_reason, usage, rid = None, 0, ""
    stall_s, before = 0.0, None
    with client(url) as official:
        chunks = official.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=tokens,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in chunks:
            rid = chunk.id.removeprefix("chatcmpl-")
            if chunk.usage:
                usage = chunk.usage.completion_tokens
            for choice in chunk.choices:
                finish_reason = choice.finish_reason or finish_reason
                if choice.delta.content:
                    now = time.monotonic()
                    stall_s = max(stall_s, now - (before or now))
                    before = now
                    pieces.append(choice.delta.content)
                    on_piece(rid, len(pieces))
    return Transcript("".join(pieces), finish_reason, usage, rid, stall_s)


def assert_whole(transcript: Transcript, prompt: str, tokens: int) -> None:
    """No repeat, no hole, nothing foreign: exactly the reference, counted exactly."""
    assert transcript.text == expected(prompt, tokens)
    assert transcript.finish_reason == "length"
    assert transcript.completion_tokens == tokens
