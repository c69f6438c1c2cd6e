"""`penstock dead` on a whole system: what killed its workers is kept, and can be sent again or dropped."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import openai
import pytest

from bench.system import REPOSITORY, System
from bench.transcript import MODEL, assert_whole, client, stream
from tests.acceptance.conftest import StartSystem

PROMPT = "brings every worker down"
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=2, itl_ms=5, ttft_ms=5)


def _dead(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli", "dead", *words, "--store", str(system.store)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def _list(system: System) -> list[dict[str, Any]]:
    listed = _dead(system, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    return list(json.loads(listed.stdout))


def test_a_poisoned_request_is_kept_redriven_and_dropped(system: System) -> None:
    with pytest.raises(openai.APIError) as failed:
        client(system.url).chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=20,
            extra_body={"penstock_fault": {"die_at_token": 0}},
        )
    assert failed.value.code == "poison"

    (row,) = _list(system)
    rid = row["rid"]
    assert (row["klass"], row["model"], row["reason"], row["tokens"]) == ("standard", MODEL, "poison", 0)
    assert row["attempts"] >= 3
    body = json.loads(_dead(system, "show", rid, "--body").stdout)
    assert body["messages"][0]["content"] == PROMPT
    story = _dead(system, "show", rid).stdout
    assert story.count("the worker before it died") >= 3
    assert PROMPT not in story, "what the client asked is shown only if asked for"
    assert json.loads(_dead(system, "show", rid, "--json").stdout)["letter"] == row

    redriven = _dead(system, "redrive", rid)
    assert redriven.returncode == 0, redriven.stderr
    new = redriven.stdout.strip()
    assert new != rid
    system.wait_until(lambda: [row["rid"] for row in _list(system)] == [new], "it ran and failed again")

    assert _dead(system, "drop", new).returncode == 0
    assert _list(system) == []
    gone = _dead(system, "show", new)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert f"no dead letter of {new}" in gone.stderr
    assert_whole(stream(system.url, "after it", 20), "after it", 20)


def test_an_empty_list_says_so(system: System) -> None:
    assert _dead(system, "list").stdout.strip() == "no dead letters"
