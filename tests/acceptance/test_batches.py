"""Files and batches with the official client, unchanged, and what is left of them when processes die."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from bench.system import System
from bench.transcript import MODEL, client, expected
from schemas.streams import BATCH_ACK_WAIT_S
from tests.acceptance.canaries import lines_of
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean, output_logs
from workers.engines.simulator import reference_text

CHAT: Any = "/v1/chat/completions"
LINES = 50
TOKENS = 20
OVER = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(edges=2, workers=2, itl_ms=10, ttft_ms=5, batch_inflight_max=8)


@pytest.fixture(scope="module")
def remote(system: System) -> OpenAI:
    return client(system.url)


def chat(number: int, tokens: int = TOKENS, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"line {number}"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": tokens, **fields}
    return {"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": body}


def upload(remote: OpenAI, lines: list[dict[str, Any]]) -> str:
    data = "\n".join(json.dumps(line) for line in lines)
    return remote.files.create(file=("in.jsonl", data.encode()), purpose="batch").id


def start(remote: OpenAI, lines: list[dict[str, Any]], endpoint: Any = CHAT) -> Batch:
    return remote.batches.create(
        input_file_id=upload(remote, lines), endpoint=endpoint, completion_window="24h"
    )


def wait(remote: OpenAI, batch: Batch, within_s: float = 90.0) -> Batch:
    """Polls as clients do, also while an edge or the broker is away."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            batch = remote.batches.retrieve(batch.id)
        except openai.APIError:
            time.sleep(0.2)
            continue
        if batch.status in OVER:
            return batch
        time.sleep(0.1)
    raise AssertionError(f"not over within {within_s} s: {batch}")


def until_begun(remote: OpenAI, batch: Batch, completed: int = 3) -> Batch:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        batch = remote.batches.retrieve(batch.id)
        assert batch.status not in OVER, "it is still to run"
        if batch.request_counts and batch.request_counts.completed >= completed:
            return batch
        time.sleep(0.05)
    raise AssertionError(f"it does not run: {batch}")


def results(remote: OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of a file by custom_id; each is there once."""
    assert file_id is not None
    lines = [json.loads(line) for line in remote.files.content(file_id).text.splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines), "one result for each"
    return by_id


def text_of(line: dict[str, Any]) -> str:
    assert line["error"] is None
    assert line["response"]["status_code"] == 200
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def assert_complete(remote: OpenAI, batch: Batch, lines: int = LINES, tokens: int = TOKENS) -> None:
    """Each custom_id exactly once, with the text of a direct request."""
    assert batch.status == "completed"
    assert batch.request_counts
    assert batch.request_counts.to_dict() == {"total": lines, "completed": lines, "failed": 0}
    texts = {custom_id: text_of(line) for custom_id, line in results(remote, batch.output_file_id).items()}
    assert texts == {f"c{number}": expected(f"line {number}", tokens) for number in range(lines)}
    assert batch.error_file_id is None


def test_good_lines_and_bad_ones_come_back_in_two_files(remote: OpenAI) -> None:
    lines = [chat(number) for number in range(LINES)]
    lines[7] = chat(7, model="nothing")
    lines[11] = chat(11, temperature=9)
    lines[13] = chat(13, stream=True)
    lines[17] = chat(17, penstock_fault={"raise_at_token": 3})
    batch = wait(remote, start(remote, lines))
    assert batch.status == "completed"
    assert batch.request_counts
    assert batch.request_counts.to_dict() == {"total": LINES, "completed": LINES - 4, "failed": 4}
    good, bad = results(remote, batch.output_file_id), results(remote, batch.error_file_id)
    assert {one: line["response"]["status_code"] for one, line in bad.items()} == {
        "c7": 404,
        "c11": 400,
        "c13": 400,
        "c17": 502,
    }
    assert bad["c7"]["response"]["body"]["error"]["code"] == "model_not_found"
    assert bad["c13"]["response"]["body"]["error"]["param"] == "stream"
    assert good.keys() | bad.keys() == {f"c{number}" for number in range(LINES)}
    for number in range(LINES):
        if f"c{number}" in good:
            assert text_of(good[f"c{number}"]) == expected(f"line {number}", TOKENS)
    assert batch.created_at <= (batch.in_progress_at or 0) <= (batch.finalizing_at or 0)
    assert batch.output_file_id
    shown = remote.files.retrieve(batch.output_file_id)
    assert (shown.purpose, shown.bytes) == ("batch_output", len(remote.files.content(shown.id).content))


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/embeddings"])
def test_other_endpoints(remote: OpenAI, endpoint: str) -> None:
    field = "prompt" if endpoint == "/v1/completions" else "input"
    body = {"model": MODEL, field: "legacy"} | ({"max_tokens": 5} if field == "prompt" else {})
    line = {"custom_id": "one", "method": "POST", "url": endpoint, "body": body}
    batch = wait(remote, start(remote, [line], endpoint))
    assert batch.status == "completed"
    answer = results(remote, batch.output_file_id)["one"]["response"]["body"]
    if field == "prompt":
        assert answer["choices"][0]["text"] == reference_text("legacy", 0, 5)
    else:
        assert answer["data"][0]["embedding"]


def test_a_bad_file_fails_before_anything_runs_and_says_where(remote: OpenAI) -> None:
    good = json.dumps(chat(1))
    wrong_url = json.dumps({**chat(2), "url": "/v1/embeddings"})
    wrong_method = json.dumps({**chat(3), "method": "GET"})
    nameless = json.dumps({"method": "POST", "url": CHAT, "body": {}})
    data = f"{good}\n{{\n{nameless}\n{good}\n\n{wrong_url}\n{wrong_method}"
    file = remote.files.create(file=("bad.jsonl", data.encode()), purpose="batch")
    batch = remote.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    batch = wait(remote, batch)
    assert batch.status == "failed"
    assert batch.failed_at
    assert batch.errors
    assert batch.errors.data
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "missing_required_parameter"),
        (4, "duplicate_custom_id"),
        (6, "invalid_url"),
        (7, "invalid_method"),
    ]
    assert batch.output_file_id is None


def test_files_and_batches_are_listed_in_pages(remote: OpenAI) -> None:
    ids = [upload(remote, [chat(number)]) for number in range(3)]
    assert [one.id for one in remote.files.list(limit=2)][:3] == ids[::-1], (
        "it goes on to the next page itself"
    )
    newest = remote.files.list(limit=1)
    assert ([one.id for one in newest.data], newest.has_more) == ([ids[2]], True)
    assert [one.id for one in remote.files.list(order="asc", after=ids[0])] == ids[1:]
    assert remote.files.content(ids[0]).text == json.dumps(chat(0))
    assert remote.files.delete(ids[1]).deleted
    with pytest.raises(openai.NotFoundError):
        remote.files.retrieve(ids[1])
    with pytest.raises(openai.NotFoundError):
        remote.files.content(ids[1])
    metadata = {"team": "a"}
    made = remote.batches.create(
        input_file_id=ids[0], endpoint=CHAT, completion_window="24h", metadata=metadata
    )
    assert remote.batches.list(limit=1).data[0].id == made.id
    assert wait(remote, made).metadata == metadata


def test_mistakes_are_errors_the_client_knows(remote: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        remote.files.create(file=("x", b"x"), purpose="fine-tune")
    assert wrong.value.param == "purpose"
    with pytest.raises(openai.NotFoundError):
        remote.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.BadRequestError):
        remote.batches.create(
            input_file_id=upload(remote, [chat(0)]),
            endpoint="/v1/moderations",
            completion_window="24h",
        )
    with pytest.raises(openai.NotFoundError):
        remote.batches.cancel("batch_none")


def test_a_cancelled_batch_keeps_what_is_done(remote: OpenAI) -> None:
    batch = start(remote, [chat(number, 100) for number in range(LINES)])
    until_begun(remote, batch)
    assert remote.batches.cancel(batch.id).status == "cancelling"
    batch = wait(remote, batch)
    assert batch.status == "cancelled"
    assert batch.cancelling_at
    assert batch.cancelled_at
    done = results(remote, batch.output_file_id)
    assert 3 <= len(done) < LINES
    assert batch.request_counts
    assert batch.request_counts.completed == len(done)
    for custom_id, line in done.items():
        assert text_of(line) == expected(f"line {custom_id[1:]}", 100)


def rids_of(remote: OpenAI, batch: Batch) -> set[str]:
    return {line["response"]["request_id"] for line in results(remote, batch.output_file_id).values()}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("role", ["edge", "worker", "scheduler", "broker"])
def test_a_kill_costs_no_line_and_runs_none_twice(system: System, role: str) -> None:
    """All edges, so the one that runs it, too."""
    logs_before = set(output_logs(system.nats_url))
    remote = client(system.url)
    batch = start(remote, [chat(number, 60) for number in range(LINES)])
    until_begun(remote, batch)
    victims = system.processes(role) if role == "edge" else system.processes(role)[:1]
    for victim in victims:
        system.kill(victim)
    for victim in victims:
        system.wait_replaced(victim)
    # The connections of the first client have died.
    remote = client(system.url)
    batch = wait(remote, batch)
    assert_complete(remote, batch, tokens=60)
    rids = rids_of(remote, batch)
    assert set(assert_clean(system.nats_url, rids)) - logs_before == rids, "one run for each line"


def runners_of(system: System, batch: Batch) -> list[str]:
    """The ids of the edges that ran it, in order."""
    told = [line for line in lines_of(system) if line.get("batch") == batch.id]
    return [str(line["id"]) for line in told if line["event"] == "runs a batch"]


@pytest.mark.timeout(120)
def test_another_edge_goes_on_within_seconds(system: System) -> None:
    remote = client(system.url)
    batch = start(remote, [chat(number, 60) for number in range(LINES)])
    until_begun(remote, batch)
    system.wait_until(lambda: runners_of(system, batch), "its runner is in the log")
    (first,) = runners_of(system, batch)
    (victim,) = [edge for edge in system.processes("edge") if edge.id == first]
    system.kill(victim)
    killed_at = time.monotonic()
    system.wait_until(lambda: len(runners_of(system, batch)) == 2, "another one runs it")
    assert time.monotonic() - killed_at < 2 * BATCH_ACK_WAIT_S
    system.wait_replaced(victim)
    assert_complete(client(system.url), wait(client(system.url), batch), tokens=60)
