"""A key is told to nobody: not in a log, a metric, an answer, nor in anything the broker keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from bench.system import System
from bench.transcript import MODEL
from infra.keys import add_key, new_key
from tests.acceptance.canaries import files_under, lines_of
from tests.acceptance.conftest import StartSystem

OWN = "canary-of-the-settings-0123456789"
WRONG = "canary-that-is-wrong-0123456789"


@pytest.fixture(scope="module")
def keyed(start_system: StartSystem, tmp_path_factory: pytest.TempPathFactory) -> tuple[System, str]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    key, text = new_key("canary")
    add_key(file, key)
    system = start_system(edges=2, keys_file=file, api_keys=OWN, log_level="debug", rate_requests_max=5)
    return system, text


def test_a_key_is_nowhere_to_be_found(keyed: tuple[System, str]) -> None:
    system, text = keyed
    said = b""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    codes = []
    for key in (text, OWN, WRONG):
        for name, value in (("Authorization", f"Bearer {key}"), ("X-API-Key", key), ("api-key", key)):
            headers = {name: value, "X-Request-Id": "mine", "X-Penstock-Class": "standard"}
            for _ in range(3):
                answer = httpx.post(
                    f"{system.url}/v1/chat/completions", json=body, headers=headers, timeout=60
                )
                codes.append(answer.status_code)
                said += answer.content + str(answer.headers).encode()
            said += httpx.get(f"{system.url}/v1/nothing", headers=headers).content
            said += httpx.post(f"{system.url}/v1/models", headers=headers).content
    said += httpx.get(f"{system.url}/metrics").content + httpx.get(f"{system.url}/health").content
    assert {200, 401, 429} == set(codes)
    system.wait_until(lambda: b'"rid"' in system.log_path.read_bytes(), "the log tells of a request")
    stored = files_under(system.store)
    assert any(b"llm.v1" in content for _, content in stored), "the broker's files are among them"
    assert any(b'"rid"' in content for name, content in stored if name == system.log_path.name)
    command_lines = b"".join(
        Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in system.processes()
    )
    for canary in (text, OWN, WRONG):
        for secret in (
            canary.encode(),
            canary[-16:].encode(),
            hashlib.sha256(canary.encode()).hexdigest().encode(),
        ):
            assert secret not in said
            assert secret not in command_lines
            assert not [name for name, content in stored if secret in content]


def test_an_edge_that_anybody_reaches_warns_once(start_system: StartSystem) -> None:
    system = start_system(host="0.0.0.0")

    def warnings() -> list[dict[str, object]]:
        return [line for line in lines_of(system) if "anybody who reaches" in str(line["event"])]

    system.wait_until(warnings, "it warns")
    [line] = warnings()
    assert line["level"] == "warning"
