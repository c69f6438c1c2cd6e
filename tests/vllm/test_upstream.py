"""Penstock in front of vLLM's own server: the same answers, also when its workers die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bench.answer import differences, stream
from bench.engine_cases import CASES, GREEDY, PROMPT, Case, chat
from bench.same_as_vllm import HEAD, compare, line
from bench.system import System
from bench.transcript import client
from bench.vllm_server import VllmServer
from schemas.log import Fold
from schemas.requests import RequestMeta
from workers.engines.base import (
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    prefix_of,
)
from workers.engines.upstream import OpenAIEngine, OpenAIOptions

pytestmark = pytest.mark.timeout(600)

KINDS = (
    "chat greedy",
    "chat seed",
    "chat stop strings",
    "chat stop token",
    "chat logprobs",
    "chat n=2",
    "chat json_schema",
    "tools named",
    "completion seed",
    "completion logprobs",
    "completion n=2",
)
KILLED_AT = 0.3
LONG = {"max_tokens": 400, "ignore_eos": True}


class Front(NamedTuple):
    """A system, and the server behind it."""

    system: System
    server: VllmServer


@pytest.fixture(scope="module")
def front(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("upstream")
    server = VllmServer(tiny_model, folder / "vllm.log")
    try:
        server.wait_ready()
        upstream = f"{server.url}/v1"
        system = System(folder / "penstock", engine="openai", upstream=upstream, model=str(tiny_model))
        try:
            yield Front(system, server)
        finally:
            code = system.stop()
        assert code == 0, "an ordered drain ends with 0"
    finally:
        server.stop()


@pytest.mark.parametrize("case", [case for case in CASES if case.name in KINDS], ids=lambda case: case.name)
def test_same_answer(case: Case, front: Front, tiny_model: Path) -> None:
    row = compare(front.server.url, front.system.url, str(tiny_model), case)
    print(line(row))
    assert row.is_same, HEAD + line(row)


@pytest.mark.parametrize(
    "case",
    [
        chat("greedy", temperature=0, **LONG),
        chat("seed", temperature=1, seed=7, **LONG),
        chat("greedy with penalties", temperature=0, presence_penalty=1.0, **LONG),
    ],
    ids=lambda case: case.name,
)
def test_a_worker_killed_in_mid_stream(case: Case, front: Front, tiny_model: Path) -> None:
    body = {"model": str(tiny_model), **case.body}
    killed: list[str] = []
    said: list[str] = []
    with client(front.server.url) as theirs, client(front.system.url) as ours:
        uncut = stream(theirs, case.api, body)
        kill_at = KILLED_AT * len(uncut.parts[0].text)
        front.system.wait_ready("worker", 1)

        def on_chunk(chunk: Any) -> None:
            said.extend(choice.delta.content or "" for choice in chunk.choices)
            if not killed and len("".join(said)) > kill_at:
                assert not any(choice.finish_reason for choice in chunk.choices), "killed too late"
                for process in front.system.processes("worker"):
                    front.system.kill(process)
                    killed.append(process.id)

        answer = stream(ours, case.api, body, on_chunk)
    assert killed
    assert not differences(answer, uncut)


async def test_what_was_said_is_not_generated_again_where_that_is_exact(
    front: Front, tiny_model: Path
) -> None:
    told: asyncio.Queue[EngineEvent] = asyncio.Queue()
    options = OpenAIOptions(
        f"{front.server.url}/v1", str(tiny_model), "", "", parallel=1, max_tokens_default=0
    )
    engine = OpenAIEngine(options)
    await engine.start(told.put_nowait)
    # Else the template opens an answer with an empty thought, which it leaves out of a final message.
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], **GREEDY, **thinking}).encode()
    try:
        uncut = await _run(engine, told, EngineRequest("t.r1", 1, body, RequestMeta()))
        continued = 0
        for cut in range(1, len(uncut.events), 3):
            log = Fold()
            for event in uncut.events[:cut]:
                log.add(len(log.ids), event.ids, event.deltas, event.of)
            before = generated(front.server)
            rest = await _run(engine, told, EngineRequest("t.r1", 1, body, RequestMeta(), prefix_of(log)))
            for event in rest.events:
                log.add(len(log.ids), event.ids, event.deltas, event.of)
            assert (log.ids, log.texts) == (uncut.log.ids, uncut.log.texts)
            end, uncut_end = rest.events[-1], uncut.events[-1]
            assert isinstance(end, EngineFinished)
            assert isinstance(uncut_end, EngineFinished)
            assert (end.usage, end.finish_reasons) == (uncut_end.usage, uncut_end.finish_reasons)
            continued += generated(front.server) - before < uncut_end.usage.completion_tokens
    finally:
        await engine.stop()
    print(f"{continued} cuts were continued, the others made again")
    assert continued, "none of them is exact"


class _Run(NamedTuple):
    events: list[EngineOutput | EngineFinished]
    log: Fold


async def _run(engine: OpenAIEngine, told: asyncio.Queue[EngineEvent], request: EngineRequest) -> _Run:
    run = _Run([], Fold())
    engine.submit(request)
    while not run.events or isinstance(run.events[-1], EngineOutput):
        event = await asyncio.wait_for(told.get(), 60)
        assert not isinstance(event, EngineFailed), event
        run.events.append(event)
        run.log.add(len(run.log.ids), event.ids, event.deltas, event.of)
    return run


def generated(server: VllmServer) -> float:
    """Tokens that the server has made in its life."""
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    return sum([float(one.split()[-1]) for one in lines if one.startswith("vllm:generation_tokens_total")])
