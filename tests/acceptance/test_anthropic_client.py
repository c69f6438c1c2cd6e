"""Anthropic's official client against a whole system, unchanged but for its address."""

from __future__ import annotations

import base64
import json
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, beta_tool
from anthropic.types import Message

from bench.system import Process, System
from bench.transcript import MODEL, expected
from bench.worker_kill import worker_of
from tests.acceptance.conftest import StartSystem
from tests.pictures import picture
from workers.engines.simulator import prompt_of, reference_text

TOKENS = 40
SLOWLY: dict[str, Any] = {"extra_body": {"penstock_fault": {"slow_factor": 6}}}
"""Over a second of text: what is read while it comes, and whose worker is killed, is not over before that."""

TOOLS: list[Any] = [{"name": name, "input_schema": {"type": "object"}} for name in ("weather", "time")]


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(itl_ms=5, ttft_ms=5, workers=2)


def official(system: System) -> Anthropic:
    """Without its retries, which would hide a failure."""
    return Anthropic(base_url=system.url, api_key="unused", max_retries=0, timeout=60)


def body_of(prompt: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": prompt}],
        **fields,
    }


def created(system: System, body: dict[str, Any]) -> Message:
    with official(system) as client:
        message: Message = client.messages.create(**body)
    return message


def streamed(system: System, body: dict[str, Any]) -> Message:
    with official(system) as client, client.messages.stream(**body) as stream:
        return stream.get_final_message()


def unnamed(message: Message) -> dict[str, Any]:
    """All of it but what is different for each request."""
    shown = message.to_dict()
    rid = str(shown.pop("id")).removeprefix("msg_")
    return dict(json.loads(json.dumps(shown).replace(rid, "RID")))


def asked_of_engine(messages: list[Any]) -> str:
    return prompt_of(json.dumps({"messages": messages}).encode())


def test_a_message(system: System) -> None:
    message = created(system, body_of("hello", system="be brief"))
    text = reference_text("system: be brief\nuser: hello", 0, TOKENS)
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": text}]
    assert (message.stop_reason, message.role, message.model) == ("max_tokens", "assistant", MODEL)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (5, TOKENS)
    assert unnamed(streamed(system, body_of("hello", system="be brief"))) == unnamed(message)


def test_the_text_of_a_stream(system: System) -> None:
    with official(system) as client, client.messages.stream(**body_of("stream", **SLOWLY)) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 3
    assert "".join(pieces) == expected("stream", TOKENS)
    with official(system) as client:
        events = [event.type for event in client.messages.create(**body_of("stream"), stream=True)]
    assert events[:2] == ["message_start", "content_block_start"]
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_stop_sequence(system: System) -> None:
    text = expected("stop", TOKENS)
    stop = text.split()[10]
    body = body_of("stop", stop_sequences=["never in it", stop])
    for message in (created(system, body), streamed(system, body)):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
        assert [block.to_dict() for block in message.content] == [
            {"type": "text", "text": text[: text.index(stop)]}
        ]


def test_thoughts(system: System) -> None:
    body = body_of("think", output_config={"effort": "low"}, thinking={"type": "adaptive"})
    message = created(system, body)
    thinking, text = message.content
    assert thinking.type == "thinking"
    assert text.type == "text"
    assert thinking.thinking == expected("think", 4)
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 4
    assert unnamed(streamed(system, body)) == unnamed(message)


def test_a_tool_is_called_and_its_result_answered(system: System) -> None:
    body = body_of("call", tools=TOOLS, tool_choice={"type": "tool", "name": "weather"})
    message = created(system, body)
    assert unnamed(streamed(system, body)) == unnamed(message)
    [call] = message.content
    assert call.type == "tool_use"
    assert (message.stop_reason, call.name) == ("tool_use", "weather")
    assert call.input.keys() == {"text"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny", "is_error": False}
    turns = [
        {"role": "user", "content": "call"},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result, {"type": "text", "text": "so?"}]},
    ]
    answer = streamed(system, body_of("", messages=turns, tools=TOOLS))
    prompt = "user: call\nassistant: \ntool: sunny\nuser: so?"
    assert [block.to_dict() for block in answer.content] == [
        {"type": "text", "text": reference_text(prompt, 0, TOKENS)}
    ]


def test_any_tool(system: System) -> None:
    message = created(system, body_of("any", tools=TOOLS, tool_choice={"type": "any"}))
    assert [block.type for block in message.content] == ["tool_use"]
    assert message.stop_reason == "tool_use"


def test_the_clients_own_loop_of_calls(system: System) -> None:
    """It would leave the conversation with the server, and does without when it is told that none is kept here."""
    given: list[str] = []

    @beta_tool
    def weather(text: str) -> str:
        """Of a place."""
        given.append(text)
        return "sunny"

    with official(system) as client:
        runner = client.beta.messages.tool_runner(
            model=MODEL,
            max_tokens=TOKENS,
            tools=[weather],
            tool_choice={"type": "any"},
            max_iterations=2,
            messages=[{"role": "user", "content": "loop"}],
        )
        first, second = runner
    [call] = first.content
    assert call.type == "tool_use"
    assert call.input == {"text": given[0]}
    assert len(given) == 2
    assert second.usage.input_tokens > first.usage.input_tokens, "it was asked with all that was said"


def test_an_image_is_seen(system: System) -> None:
    data = base64.b64encode(picture("PNG", 300, 200)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": "what?"}]
    answer = created(system, body_of("", messages=[{"role": "user", "content": blocks}]))
    url = {"url": f"data:image/png;base64,{data}"}
    parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "what?"}]
    prompt = asked_of_engine([{"role": "user", "content": parts}])
    assert [block.to_dict() for block in answer.content] == [
        {"type": "text", "text": reference_text(prompt, 0, TOKENS)}
    ]


def test_a_count_is_what_the_message_is_charged_for(system: System) -> None:
    messages: list[Any] = [{"role": "user", "content": "one two three"}]
    with official(system) as client:
        count = client.messages.count_tokens(model=MODEL, messages=messages, system="four five", tools=TOOLS)
    message = created(system, body_of("one two three", system="four five", tools=TOOLS))
    assert count.input_tokens == message.usage.input_tokens == 7


def test_the_models(system: System) -> None:
    with official(system) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).display_name == MODEL


def test_failures_are_the_clients_exceptions(system: System) -> None:
    for fields, error, kind in (
        ({"model": "other"}, anthropic.NotFoundError, "not_found_error"),
        ({"extra_body": {"temperature": 2}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"extra_body": {"reasoning_effort": "very"}}, anthropic.BadRequestError, "invalid_request_error"),
        (
            {"messages": [{"role": "user", "content": "long " * 40_000}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
    ):
        for ask in (created, streamed):
            with pytest.raises(anthropic.APIStatusError) as refused:
                ask(system, body_of("wrong", **fields))
            assert isinstance(refused.value, error)
            assert (refused.value.type, bool(refused.value.request_id)) == (kind, True)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"output_config": {"effort": "high"}},
        {"output_config": {"effort": "high"}, "tools": TOOLS, "tool_choice": {"type": "any"}},
    ],
    ids=["text", "thoughts", "a call"],
)
def test_a_message_goes_on_when_its_worker_is_killed(
    system: System, fields: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    prompt = f"kill {request.node.name}"
    late = max(expected(prompt, TOKENS).split(), key=expected(prompt, TOKENS).index)
    body = body_of(prompt, stop_sequences=[late], **fields)
    killed: list[Process] = []
    pieces = 0
    with official(system) as client, client.messages.stream(**body, **SLOWLY) as stream:
        for event in stream:
            pieces += event.type == "content_block_delta"
            if pieces == 5 and not killed:
                killed.append(worker_of(system, stream.current_message_snapshot.id.removeprefix("msg_")))
                system.kill(killed[0])
        cut = stream.get_final_message()
    assert killed, "the stream was long enough to be cut"
    system.wait_replaced(killed[0])
    assert unnamed(cut) == unnamed(created(system, body))
