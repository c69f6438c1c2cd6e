"""Penstock in front of vLLM's own server: the same answers, also when its workers die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.answer import differences, stream
from bench.engine_cases import CASES, Case, chat
from bench.same_as_vllm import HEAD, compare, line
from bench.system import System
from bench.transcript import client
from bench.vllm_server import VllmServer

pytestmark = pytest.mark.timeout(300)

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
