"""How soon a client that lost its connection sees text again: `python -m bench.resume`.

One chat at a time: the connection is dropped after some events, the log grows for a moment, and the stream is asked
for again with `Last-Event-ID`, at whichever of two edges takes the connection. Measured from the request to the first
event; both parts together have to be exactly the reference text.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import httpx

from bench.result_file import seconds, write_result
from bench.system import System
from bench.transcript import MODEL, expected

TOKENS = 80
PAUSE_S = 0.1
"""Between the two connections: the log has grown by then, so that the resumed stream replays and then goes on live."""


def main() -> None:
    """Resumes `--resumes` streams, prints percentiles, writes the samples to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resumes", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        system = System(Path(store), edges=2, itl_ms=5, ttft_ms=5)
        try:
            samples_s = [resume_once(system.url, number) for number in range(arguments.resumes)]
        finally:
            system.stop()
    print(f"{len(samples_s)} resumes: first event after {seconds(samples_s)}")
    write_result(arguments.out, first_event_s=samples_s)


def resume_once(url: str, number: int) -> float:
    """Seconds from asking again to the first event. Raises AssertionError if the parts do not make the whole."""
    prompt = f"resume {number}"
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "stream": True,
    }
    # A client of its own each: the two parts are to go over two connections, to either edge.
    grace = {"X-Penstock-On-Disconnect": "grace=30"}
    with (
        httpx.Client(timeout=30) as http,
        http.stream("POST", f"{url}/v1/chat/completions", json=body, headers=grace) as answer,
    ):
        rid = answer.headers["x-request-id"]
        first = list(islice(events(answer), 5 + number % 20))
    time.sleep(PAUSE_S)
    place = {"Last-Event-ID": first[-1].id}
    with httpx.Client(timeout=30) as http:
        asked_at = time.monotonic()
        with http.stream("GET", f"{url}/v1/requests/{rid}/stream", headers=place) as answer:
            rest = list(events(answer))
    text = "".join(event.text for event in first + rest)
    assert text == expected(prompt, TOKENS), (rid, first[-1].id, rest[0].id, text)
    return rest[0].at - asked_at


class Event(NamedTuple):
    """One event of a chat: its id, its text, and when it came."""

    id: str
    text: str
    at: float


def events(answer: httpx.Response) -> Iterator[Event]:
    """The events of a chat as they come, without `[DONE]`."""
    assert answer.status_code == 200, answer.read()
    event_id = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            event_id = value
        elif field == "data" and value != "[DONE]":
            choices = json.loads(value)["choices"]
            text = "".join(choice["delta"].get("content", "") for choice in choices)
            yield Event(event_id, text, time.monotonic())


if __name__ == "__main__":
    main()
