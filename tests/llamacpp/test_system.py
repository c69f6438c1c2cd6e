"""`penstock up --engine llamacpp`, the official client, and kill -9 of the only worker in mid-answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from openai import OpenAI

from bench.system import System
from tests.acceptance.tap import output_logs
from tests.llamacpp.test_continuation import TOOL
from tests.llamacpp.tiny_gguf import CALL, END, build

MODEL = "tiny-llama"
SLOW_LAYERS = 160
"""Of a model whose answers take long enough to be killed in the middle: its client keeps up with it."""

TOKENS = 300
KILLED_AT = (1, 10, 30, 80)
"""Pieces that the client has when the worker is killed."""

TRIES = 5
"""A kill that came after the end of the answer proves nothing: on a busy machine a client may be that late."""

StartSystem = Callable[[Path], System]


@pytest.fixture(scope="module")
def start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartSystem]:
    started: list[System] = []

    def start(model: Path) -> System:
        store = tmp_path_factory.mktemp("store")
        settings: dict[str, Any] = {"engine": "llamacpp", "model": model, "threads": 1, "ctx_size": 1024}
        started.append(System(store, workers=1, **settings))
        return started[-1]

    yield start
    codes = [system.stop() for system in started]
    assert codes == [0] * len(codes), "an ordered drain ends with 0"


@pytest.fixture(scope="module")
def client(start_system: StartSystem, model: Path) -> Iterator[OpenAI]:
    with official(start_system(model)) as client:
        yield client


@pytest.fixture(scope="module")
def slow_system(start_system: StartSystem, tmp_path_factory: pytest.TempPathFactory) -> System:
    return start_system(build(tmp_path_factory.mktemp("model") / f"{MODEL}.gguf", layers=SLOW_LAYERS))


def official(system: System) -> OpenAI:
    return OpenAI(base_url=f"{system.url}/v1", api_key="unused", max_retries=0, timeout=60)


def ask(**fields: Any) -> dict[str, Any]:
    standard = {"max_tokens": 80, "temperature": 0}
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello river"}],
        **standard,
        **fields,
    }


class Got(NamedTuple):
    """What a client has in the end."""

    text: str
    arguments: str
    tokens: list[str]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def streamed(
    client: OpenAI, body: dict[str, Any], on_piece: Callable[[int], None] = lambda _: None
) -> tuple[str, Got]:
    """Its rid, and what the only choice came to."""
    text, arguments, finish_reason, rid = "", "", "", ""
    tokens: list[str] = []
    usage, pieces = None, 0
    chunks = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        rid = chunk.id.removeprefix("chatcmpl-")
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                arguments += (call.function and call.function.arguments) or ""
            if choice.logprobs:
                tokens += [logprob.token for logprob in choice.logprobs.content or []]
            finish_reason = choice.finish_reason or finish_reason
            pieces += 1
            on_piece(pieces)
    assert usage is not None
    return rid, Got(text, arguments, tokens, finish_reason, usage.prompt_tokens, usage.completion_tokens)


def test_the_model_is_named_after_its_file(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_chat_whole_and_streamed(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ask())
    _, got = streamed(client, ask())
    assert whole.choices[0].message.content == got.text
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == got.completion_tokens == 80


def test_completion(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="Hello", max_tokens=20, temperature=0)
    pieces = client.completions.create(model=MODEL, prompt="Hello", max_tokens=20, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text != ""


def test_a_call_of_a_tool(client: OpenAI) -> None:
    bias = {str(CALL): 37, str(END): 100}
    body = ask(tools=[TOOL], tool_choice="required", temperature=1, seed=1, max_tokens=120, logit_bias=bias)
    whole = client.chat.completions.create(**body)
    assert whole.choices[0].finish_reason == "tool_calls"
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    _, got = streamed(client, body)
    assert (got.arguments, got.finish_reason) == (call.function.arguments, "tool_calls")


def test_mistakes_are_400(client: OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for body, word in (
        (ask(messages=[{"role": "user", "content": [image]}]), "image"),
        (ask(messages=[{"role": "user", "content": "x " * 2000}]), "context"),
        (ask(response_format={"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}), "type"),
    ):
        with pytest.raises(openai.BadRequestError, match=word):
            client.chat.completions.create(**body)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "seed": 0},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 1.0, "seed": 6, "presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"temperature": 0, "seed": 0, "logprobs": True},
    ],
    ids=", ".join,
)
@pytest.mark.timeout(400)
def test_killed_in_mid_answer(
    fields: dict[str, Any], slow_system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stream goes on by itself, and its client gets what it would have got. With a seed: no cached prompt moves the
    roundings, of which this model makes much."""
    body = ask(max_tokens=TOKENS, extra_body={"ignore_eos": True}, **fields)
    client, system = official(slow_system), slow_system
    _, uncut = streamed(client, body)
    assert uncut.completion_tokens == TOKENS
    stalls: list[float] = []
    for at in KILLED_AT:
        for _ in range(TRIES):
            rid, got, stall_s = killed_at(at, client, system, body)
            assert got == uncut, at
            log = output_logs(system.nats_url)[rid]
            assert not log.offences
            if len(log.causes) > 1:
                stalls.append(stall_s)
                break
    assert len(stalls) == len(KILLED_AT)
    with capsys.disabled():
        kinds = ", ".join(fields)
        print(f"\n{kinds}: {len(stalls)} of {len(KILLED_AT)} exact, stalls {[round(s, 2) for s in stalls]} s")


def killed_at(at: int, client: OpenAI, system: System, body: dict[str, Any]) -> tuple[str, Got, float]:
    """Kills the worker when the client has that many pieces, if it gets so many; the last number is the longest silence
    after it."""
    victim = system.processes("worker")[0]
    times: list[float] = []

    def on_piece(seen: int) -> None:
        if seen == at:
            system.kill(victim)
        if seen >= at:
            times.append(time.monotonic())

    rid, got = streamed(client, body, on_piece)
    if times:
        system.wait_replaced(victim)
    return rid, got, max((later - sooner for sooner, later in pairwise(times)), default=0.0)
