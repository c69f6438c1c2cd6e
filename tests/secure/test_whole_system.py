"""A whole system on a broker of `penstock broker init --secure`: every role with its own key, over TLS, does all it has
to do, and the broker never has to forbid it anything."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import openai
import pytest
from nats.aio.msg import Msg

from bench.system import Process, System
from bench.transcript import MODEL, assert_whole, client, expected, stream
from schemas import subjects
from tests.acceptance.raw_client import attach, body_of, cancel, post, state
from tests.secure.secured import SecuredBroker, penstock, until

TOKENS = 200
BATCH_LINES = 5
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    broker = SecuredBroker(tmp_path_factory.mktemp("secured") / "broker")
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def system(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """With bounds of every kind that are counted at the broker, all too high to be met."""
    bounds = ("rate_requests_max", "streams_per_key_max", "tenant_queue_max", "model_queue_max")
    settings: dict[str, Any] = {**secured.access(), **dict.fromkeys(bounds, 1000)}
    settings |= {"edges": 2, "workers": 2, "schedulers": 2, "itl_ms": 5, "ttft_ms": 5}
    running = System(tmp_path_factory.mktemp("store"), **settings)
    yield running
    assert running.stop() == 0
    refused = [
        line for line in running.log_path.read_text().splitlines() if "forbidden by the broker" in line
    ]
    assert not refused, "a role's permissions lack something"


@pytest.fixture
def official(system: System) -> Iterator[openai.OpenAI]:
    with client(system.url) as remote:
        yield remote


def dead(secured: SecuredBroker, *words: str) -> subprocess.CompletedProcess[str]:
    """As an admin: in the folder that has the admin's key."""
    done = penstock("dead", *words, cwd=secured.directory / "admin")
    assert done.returncode == 0, done.stderr
    return done


def test_a_stream(system: System) -> None:
    assert_whole(stream(system.url, "secured", TOKENS), "secured", TOKENS)


@pytest.mark.parametrize("role", ["worker", "scheduler", "edge"])
def test_kills_in_mid_stream(system: System, role: str) -> None:
    """Of both processes of a role: whichever has the request. A reader whose edge died goes on at another one."""
    prompt, killed = f"kill every {role}", list[Process]()
    with post(system.url, body_of(prompt, TOKENS), x_penstock_on_disconnect="detach") as (answer, found):
        rid = answer.headers["x-request-id"]
        first = list(islice(found, 10))
        for process in system.processes(role):
            killed.append(process)
            system.kill(process)
        rest = [] if role == "edge" else list(found)
    for process in killed:
        system.wait_replaced(process)
    if role == "edge":
        with attach(system.url, rid, first[-1].id) as (answer, found):
            assert answer.status_code == 200
            rest = list(found)
    assert "".join(event.text for event in first + rest) == expected(prompt, TOKENS)


def test_a_cancel(system: System) -> None:
    with post(system.url, body_of("cancelled", 5000)) as (answer, found):
        rid = answer.headers["x-request-id"]
        next(found)
        assert cancel(system.url, rid)["status"] == "cancelled"
        assert list(found)[-1].error == "cancelled"
    assert state(system.url, rid)["status"] == "cancelled"


def test_a_keyed_request_is_run_once(system: System) -> None:
    rids = []
    for _ in range(2):
        with post(system.url, body_of("keyed", 20), idempotency_key="one") as (answer, found):
            rids.append(answer.headers["x-request-id"])
            assert "".join(event.text for event in found) == expected("keyed", 20)
    assert rids[0] == rids[1]


def test_a_dead_letter_is_redriven_by_the_admin(
    secured: SecuredBroker, system: System, official: openai.OpenAI
) -> None:
    with pytest.raises(openai.APIError) as failed:
        official.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "poison"}],
            extra_body={"penstock_fault": {"die_at_token": 0}},
        )
    assert failed.value.code == "poison"
    system.wait_until(lambda: json.loads(dead(secured, "list", "--json").stdout), "there is a letter")
    (letter,) = json.loads(dead(secured, "list", "--json").stdout)
    new = dead(secured, "redrive", letter["rid"]).stdout.strip()
    system.wait_until(lambda: new in dead(secured, "list", "--json").stdout, "it ran, and failed again")
    dead(secured, "drop", new)


def test_files_batches_and_responses(system: System, official: openai.OpenAI) -> None:
    lines = []
    for number in range(BATCH_LINES):
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"l{number}"}], "max_tokens": 10}
        lines.append(
            {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        )
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = official.files.create(file=("in.jsonl", data), purpose="batch")
    batch = official.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + WITHIN_S
    while batch.status != "completed":
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = official.batches.retrieve(batch.id)
    assert batch.output_file_id
    results: list[dict[str, Any]] = [
        json.loads(line) for line in official.files.content(batch.output_file_id).text.splitlines()
    ]
    texts = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in results}
    assert texts == {f"c{number}": expected(f"l{number}", 10) for number in range(BATCH_LINES)}
    assert official.files.delete(file.id).deleted
    response = official.responses.create(model=MODEL, input="kept", max_output_tokens=10)
    assert official.responses.retrieve(response.id).output_text == response.output_text
    official.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        official.responses.retrieve(response.id)


def test_the_bounds_are_counted(system: System) -> None:
    answer = httpx.post(f"{system.url}/v1/chat/completions", json=body_of("counted", 1), timeout=20)
    assert answer.status_code == 200
    remaining = int(answer.headers["x-ratelimit-remaining-requests"])
    assert 0 < remaining < 1000, "the broker told the sum"


async def test_every_process_answers_the_tools_of_nats(secured: SecuredBroker, system: System) -> None:
    # They are asked once, and the tests before this one kill some.
    for role in ("edge", "scheduler", "worker"):
        system.wait_ready(role, 2)
    async with secured.client("observer") as observer:
        answers: list[str] = []

        async def note(message: Msg) -> None:
            answers.append(json.loads(message.data)["name"])

        inbox = observer.new_inbox()
        await observer.subscribe(inbox, cb=note)
        await observer.publish(subjects.micro("PING"), b"", reply=inbox)
        both = [f"penstock-{role}" for role in ("edge", "scheduler", "worker") for _ in range(2)]
        await until(lambda: sorted(answers) == both, f"all answer; did: {answers}")


def test_an_edge_shows_the_metrics_of_all(system: System) -> None:
    def told() -> set[str]:
        return set(re.findall(r'edge="([^"]+)"', httpx.get(f"{system.url}/metrics", timeout=20).text))

    system.wait_until(
        lambda: told() == {edge.id for edge in system.processes("edge")}, "both are on the page"
    )


def test_a_restart_of_the_broker(secured: SecuredBroker, system: System) -> None:
    secured.stop()
    secured.start()
    system.wait_until(lambda: all(process.ready for process in system.processes()), "all are back")
    system.wait_until(
        # Each connection goes to any of them.
        lambda: all(httpx.get(f"{system.url}/health", timeout=20).status_code == 200 for _ in range(10)),
        "the edges are ready again",
    )
    assert_whole(stream(system.url, "after it", 20), "after it", 20)
