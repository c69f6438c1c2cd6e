"""Some streams at once, each read by an official client in a thread of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai

from bench.system import System
from bench.transcript import Transcript, assert_whole, stream

RESULT_TIMEOUT_S = 90.0


def wait_known(system: System, *, workers: int) -> None:
    """Until so many take requests: an edge is ready with the first of them."""

    def alive() -> int:
        return sum(model["workers"] for model in httpx.get(f"{system.url}/health").json()["models"])

    system.wait_until(lambda: alive() == workers, f"{workers} worker(s) are known")


class Streams:
    """`count` chats named `<name> 0`, `<name> 1` …, started together; all have their first text when the constructor
    returns, unless `flowing` is False."""

    def __init__(
        self, system: System, name: str, *, count: int = 16, tokens: int = 150, flowing: bool = True
    ) -> None:
        self.prompts = [f"{name} {number}" for number in range(count)]
        self.tokens = tokens
        self.rids: dict[str, int] = {}
        """Pieces of text that each request's client has, by rid."""
        self._pool = ThreadPoolExecutor(count)
        self._futures = [self._pool.submit(stream, system.url, p, tokens, self._note) for p in self.prompts]
        if flowing:
            system.wait_until(lambda: len(self.rids) == count, "all streams flow")

    def _note(self, rid: str, pieces: int) -> None:
        self.rids[rid] = pieces

    def results(self) -> list[Transcript | openai.APIError]:
        """What each client got, or the error it raised."""
        results: list[Transcript | openai.APIError] = []
        for future in self._futures:
            error = future.exception(RESULT_TIMEOUT_S)
            if error is None:
                results.append(future.result())
            else:
                assert isinstance(error, openai.APIError), error
                results.append(error)
        self._pool.shutdown()
        return results

    def assert_all_whole(self) -> list[Transcript]:
        """Every client got exactly the reference."""
        whole: list[Transcript] = []
        for prompt, result in zip(self.prompts, self.results(), strict=True):
            assert isinstance(result, Transcript), result
            assert_whole(result, prompt, self.tokens)
            whole.append(result)
        return whole
