"""Requests of megabytes: taken up to the limit, alone and many at once, and refused with the limit's name above it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from bench.system import System
from bench.transcript import MODEL, assert_whole, client, stream
from infra.broker import broker_config, find_nats_server
from infra.ports import free_port
from infra.setting_types import MIB
from infra.settings import load_settings
from infra.tether import tethered
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean

SMALL_PAYLOAD_BYTES = 1 * MIB


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=2, itl_ms=5, ttft_ms=5)


@pytest.fixture(scope="module")
def small_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a nats-server with the usual limit of 1 MiB for a message, instead of our profiles' 8."""
    folder: Path = tmp_path_factory.mktemp("small")
    port = free_port()
    config = json.loads(broker_config(load_settings({}), port, free_port(), folder))
    path = folder / "nats-server.conf"
    path.write_text(json.dumps({**config, "max_payload": SMALL_PAYLOAD_BYTES}))
    server = subprocess.Popen(
        tethered([find_nats_server(), "--config", str(path)]), stderr=subprocess.DEVNULL
    )
    yield f"nats://127.0.0.1:{port}"
    server.terminate()
    assert server.wait(60) == 0


def prompt_of(size_bytes: int, name: str = "x") -> str:
    """One long word: what counts here are bytes."""
    return (name * (size_bytes // len(name) + 1))[:size_bytes]


def refused(url: str, size_bytes: int) -> openai.APIStatusError:
    messages: list[Any] = [{"role": "user", "content": prompt_of(size_bytes)}]
    with client(url) as official, pytest.raises(openai.APIStatusError) as refusal:
        official.chat.completions.create(model=MODEL, messages=messages, max_tokens=5)
    return refusal.value


def test_a_prompt_of_five_megabytes_is_answered(system: System) -> None:
    prompt = prompt_of(5_000_000)
    assert_whole(stream(system.url, prompt, 20), prompt, 20)


def test_above_the_limit_it_is_413_with_the_limit(system: System) -> None:
    error = refused(system.url, 8 * MIB)
    assert error.status_code == 413
    assert str(7 * MIB) in error.message


def test_twenty_requests_of_900_kilobytes_at_once_are_answered(system: System) -> None:
    """Together they are 18 MB, far more than one batch to a worker may hold."""
    prompts = [prompt_of(900_000, f"{number:04d}") for number in range(20)]
    with ThreadPoolExecutor(len(prompts)) as pool:
        transcripts = list(pool.map(lambda prompt: stream(system.url, prompt, 20), prompts))
    for prompt, transcript in zip(prompts, transcripts, strict=True):
        assert_whole(transcript, prompt, 20)
    logs = assert_clean(system.nats_url, [transcript.rid for transcript in transcripts])
    assert {tuple(log.causes) for log in logs.values()} == {("first",)}


def test_a_server_with_a_small_limit_is_named_in_the_413(
    small_broker: str, start_system: StartSystem
) -> None:
    system = start_system(nats_url=small_broker, itl_ms=5, ttft_ms=5)
    error = refused(system.url, SMALL_PAYLOAD_BYTES)
    assert error.status_code == 413
    limit_bytes = int("".join(filter(str.isdigit, error.message.partition("at most")[2])))
    assert 0.8 * SMALL_PAYLOAD_BYTES < limit_bytes < SMALL_PAYLOAD_BYTES
    prompt = prompt_of(limit_bytes - 1000)
    assert_whole(stream(system.url, prompt, 20), prompt, 20)
