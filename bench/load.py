"""A steady load: some clients, each streaming one chat after the other and checking every text."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import openai
from openai import OpenAI

from bench.transcript import MODEL, expected


class Outcome(NamedTuple):
    """One request: what kind of end it had ("whole" is the good one), its rid if known, and how long it took."""

    kind: str
    rid: str
    total_s: float


class Load:
    """`clients` threads from the constructor until `stop`.

    `retries`: how often the official client repeats a request by itself; `fresh`: each request on a new connection.
    """

    def __init__(self, url: str, *, clients: int, tokens: int, retries: int = 0, fresh: bool = False) -> None:
        self._url = url
        self._tokens = tokens
        self._retries = retries
        self._headers = {"connection": "close"} if fresh else None
        self._stopping = threading.Event()
        self.outcomes: list[Outcome] = []
        self._pool = ThreadPoolExecutor(clients)
        self._futures = [self._pool.submit(self._one_client, number) for number in range(clients)]

    @property
    def whole(self) -> int:
        """Requests that ended with exactly the right text, so far."""
        return sum(outcome.kind == "whole" for outcome in list(self.outcomes))

    def stop(self) -> Counter[str]:
        """Lets every client finish its request; how many requests ended in which way."""
        self._stopping.set()
        for future in self._futures:
            future.result()
        self._pool.shutdown()
        return Counter(outcome.kind for outcome in self.outcomes)

    def _one_client(self, number: int) -> None:
        client = OpenAI(
            base_url=f"{self._url}/v1",
            api_key="unused",
            max_retries=self._retries,
            timeout=60,
            default_headers=self._headers,
        )
        with client:
            turn = 0
            while not self._stopping.is_set():
                started = time.monotonic()
                kind, rid = self._one_request(client, f"load {number} {turn}")
                self.outcomes.append(Outcome(kind, rid, time.monotonic() - started))
                turn += 1

    def _one_request(self, client: OpenAI, prompt: str) -> tuple[str, str]:
        rid, text, finish_reason = "", "", None
        try:
            chunks = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=self._tokens,
                stream=True,
            )
            for chunk in chunks:
                rid = chunk.id.removeprefix("chatcmpl-")
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    finish_reason = choice.finish_reason or finish_reason
        except openai.APIStatusError as error:
            return f"{error.status_code} {error.code}", rid
        except openai.APIConnectionError as error:
            return f"connection: {error.__cause__!r}", rid
        except openai.APIError as error:
            return f"stream: {error!r}", rid
        if finish_reason != "length":
            return "stream: ended without a word", rid
        return ("whole" if text == expected(prompt, self._tokens) else "wrong text"), rid
