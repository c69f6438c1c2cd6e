"""An answer that is not complete is an error to every client: none may take a part for the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bench.system import System
from tests.clients.running import ALL, Streaming, streaming

TOKENS = 3000
"""Thirty seconds of them: whatever happens, happens in the middle."""


def cancelled(system: System, rid: str) -> None:
    """Somebody else ends it."""
    assert rid, "the client tells the answer's id"
    httpx.delete(f"{system.url}/v1/requests/{rid}", timeout=30).raise_for_status()


def edges_drained(system: System, _rid: str) -> None:
    """Both are told to stop, and have less time than the answer needs."""
    for edge in system.processes("edge"):
        system.terminate(edge)


def edges_killed(system: System, _rid: str) -> None:
    """The connection breaks."""
    for edge in system.processes("edge"):
        system.kill(edge)


def nothing(_system: System, _rid: str) -> None:
    """The request brings its own trouble."""


CASES: dict[str, tuple[Callable[[System, str], None], dict[str, str], dict[str, Any]]] = {
    "cancelled": (cancelled, {}, {}),
    "out of time": (nothing, {"X-Penstock-Deadline": "2"}, {}),
    "the engine fails": (nothing, {}, {"penstock_fault": {"raise_at_token": 20}}),
    "the edges drain": (edges_drained, {}, {}),
    "the edges die": (edges_killed, {}, {}),
}

NAMELESS = {"pydantic_ai_python", "langchain_python", "litellm_python"}
"""Those that do not tell an answer's id, which is needed to cancel it from elsewhere."""

MET = [(case, client) for case in CASES for client in ALL if case != "cancelled" or client not in NAMELESS]


@pytest.mark.parametrize(("case", "client"), MET)
def test_an_incomplete_answer_is_an_error(system: System, case: str, client: str) -> None:
    happen, headers, fields = CASES[case]
    edges = system.processes("edge")
    with streaming(client, system.url, f"{case} {client}", TOKENS, headers, fields) as stream:
        rid = _met_in_the_middle(stream)
        happen(system, rid)
        pieces, last = stream.rest()
    print(f"{client}, {case}: {last['error']}")
    assert pieces < TOKENS
    assert last["end"] == "error"
    if happen in (edges_drained, edges_killed):
        for edge in edges:
            system.wait_replaced(edge)


def _met_in_the_middle(stream: Streaming) -> str:
    """Once it has some text: how many pieces are made of what comes before its trouble is nobody's promise."""
    while not (line := stream.next()).get("text"):
        assert "text" in line, line
    return str(line["id"])
