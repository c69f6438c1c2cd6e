"""What a client's calls have in common: each is a function that raises if the server is not what the client expects."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

MODEL = "penstock-sim"
PROMPT = "Tell me about rivers"
TOKENS = 24
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

Piece = tuple[str, str]
"""The answer's id and a piece of its text."""


Stream = Callable[[str, str, int, dict[str, str], dict[str, Any]], Iterable[Piece]]
"""Streams the answer to a prompt from a server: so many tokens, with further headers and fields of the body."""


def main(calls: Sequence[Callable[[str], object]], stream: Stream) -> None:
    """`python -m ... URL` makes all calls and prints a line of JSON for each; `... URL PROMPT TOKENS HEADERS FIELDS`
    streams one answer, and prints what comes and how it ended."""
    url, *rest = sys.argv[1:]
    if rest:
        prompt, tokens, headers, fields = rest
        say_stream(lambda: stream(url, prompt, int(tokens), json.loads(headers), json.loads(fields)))
        return
    for call in calls:
        try:
            call(url)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
            say(call=call.__name__, error=f"{type(error).__name__}: {error}")
        else:
            say(call=call.__name__, error=None)


def say_stream(begin: Callable[[], Iterable[Piece]]) -> None:
    """A line for each piece, then one for the end."""
    try:
        for rid, text in begin():
            say(id=rid, text=text)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        say(end="error", error=f"{type(error).__name__}: {error}")
    else:
        say(end="complete", error=None)


def say(**fields: object) -> None:
    """One line for the test that started this process."""
    print(json.dumps(fields), flush=True)
