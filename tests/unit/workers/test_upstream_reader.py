"""What upstreams stream becomes the engine's events: no part is lost, and no broken answer counts as a whole one."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from schemas.choices import Choice, add_deltas
from schemas.log import Fold
from schemas.output import Delta, TokenLogprob, ToolPiece, Usage
from schemas.requests import RequestMeta
from workers.engines.base import (
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    Prefix,
    prefix_of,
)
from workers.engines.upstream_reader import EVENT_BYTES_MAX, RESULT_BYTES_MAX, StreamReader, WholeReader

CONTEXT_TOKENS_MAX = 100


def request(prefix: Prefix | None = None) -> EngineRequest:
    return EngineRequest("t.r1", 7, b"{}", RequestMeta(), prefix)


def reader(choices: int = 1, prefix: Prefix | None = None) -> StreamReader:
    return StreamReader(request(prefix), choices, CONTEXT_TOKENS_MAX)


def sse(*chunks: object, done: bool = True) -> bytes:
    data = [chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False) for chunk in chunks]
    return "".join([f"data: {one}\n\n" for one in [*data, *["[DONE]"] * done]]).encode()


def chunk(index: int = 0, **fields: Any) -> dict[str, Any]:
    """One choice's chunk: `finish_reason`, `logprobs`, `token_ids` are the choice's, the rest is its delta's."""
    own = ("finish_reason", "stop_reason", "logprobs", "token_ids", "text")
    choice = {"index": index, **{name: fields.pop(name) for name in own if name in fields}}
    return {"id": "x", "object": "chunk", "choices": [choice | ({"delta": fields} if fields else {})]}


def text(content: str, **fields: Any) -> dict[str, Any]:
    return chunk(content=content, **fields)


END = chunk(finish_reason="stop")
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}


class Told:
    """The sum of some events."""

    def __init__(self, events: list[EngineEvent]) -> None:
        self.last = events[-1] if events else None
        self.ids: list[int] = []
        self.of: list[int] = []
        self.choices: list[Choice] = []
        for event in events:
            if not isinstance(event, EngineFailed):
                assert event.ids or isinstance(event, EngineFinished)
                self.ids += event.ids
                self.of += event.of or [0] * len(event.ids)
                add_deltas(self.choices, event.deltas)

    @property
    def finished(self) -> EngineFinished:
        assert isinstance(self.last, EngineFinished), self.last
        return self.last

    @property
    def failed(self) -> EngineFailed:
        assert isinstance(self.last, EngineFailed), self.last
        return self.last


def read(raw: bytes, one: StreamReader | None = None, seed: int | None = None) -> Told:
    one = one or reader()
    cuts = [] if seed is None else sorted(random.Random(seed).choices(range(len(raw) + 1), k=20))
    events: list[EngineEvent] = []
    for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        events += one.read(raw[a:b])
        if events and not isinstance(events[-1], EngineOutput):
            return Told(events)
    return Told(events + one.end())


@pytest.mark.parametrize("seed", range(30))
def test_a_chat(seed: int) -> None:
    told = read(
        sse(chunk(role="assistant", content=""), text("größe "), text("水"), text("🌊"), END, USAGE),
        seed=seed,
    )
    assert told.ids == [0, 0, 0]
    assert told.choices[0].text == "größe 水🌊"
    assert told.finished.finish_reasons == ["stop"]
    assert told.finished.usage == Usage(5, 3)
    assert told.finished.stop_reasons == []


def test_what_comes_in_one_read_is_one_event() -> None:
    (output,) = reader().read(sse(text("a"), text("b"), done=False))
    assert isinstance(output, EngineOutput)
    assert (output.key, output.run, output.ids) == ("t.r1", 7, [0, 0])


def test_a_completion() -> None:
    told = read(sse(chunk(text="a"), chunk(text="b", finish_reason="length"), USAGE))
    assert told.choices[0].text == "ab"
    assert told.finished.finish_reasons == ["length"]


def test_reasoning_under_either_name_counts_once() -> None:
    told = read(sse(chunk(reasoning="a"), chunk(reasoning_content="b"), chunk(reasoning="c", reasoning_content="c"),
                    text("x"), END))  # fmt: skip
    assert told.choices[0].reasoning == "abc"
    assert told.choices[0].text == "x"
    assert told.finished.usage == Usage(0, 4), "counted where it is not told"


def test_tool_calls() -> None:
    told = read(
        sse(
            chunk(tool_calls=[{"index": 0, "id": "c0", "type": "function", "function": {"name": "f"}}]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}, {"index": 1, "id": "c1",
                  "function": {"name": "g", "arguments": "{}"}}]),
            chunk(finish_reason="tool_calls"),
        )
    )  # fmt: skip
    assert [(call.id, call.name, call.arguments) for call in told.choices[0].tools] == [
        ("c0", "f", '{"a":1}'),
        ("c1", "g", "{}"),
    ]
    assert told.finished.finish_reasons == ["tool_calls"]


def test_logprobs_of_chats_and_completions() -> None:
    top = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -1, "bytes": None}]
    content = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top}]
    told = read(sse(text("a", logprobs={"content": content, "refusal": None}), END))
    assert told.choices[0].logprobs == [
        TokenLogprob("a", -0.5, [97], [TokenLogprob("a", -0.5, [97]), TokenLogprob("b", -1.0)])
    ]
    side_by_side = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -2.0],
        "top_logprobs": [None, {"b": -2.0, "c": -3.0}],
        "text_offset": [0, 1],
    }
    told = read(sse(chunk(text="ab", logprobs=side_by_side), chunk(text="", finish_reason="stop")))
    assert told.choices[0].logprobs == [
        TokenLogprob("a", None, text_offset=0),
        TokenLogprob("b", -2.0, None, [TokenLogprob("b", -2.0), TokenLogprob("c", -3.0)], 1),
    ]
    told = read(sse(chunk(text="a", logprobs={"tokens": ["a"], "token_logprobs": [-1.0]}), END))
    assert told.choices[0].logprobs == [TokenLogprob("a", -1.0)]


def test_token_ids_where_they_are_told() -> None:
    told = read(
        sse(
            chunk(role="assistant", content="", token_ids=None),
            text("a", token_ids=[11]),
            chunk(content="", token_ids=[12]),
            text("水b", token_ids=[13, 14]),
            text("c", token_ids=[]),
            chunk(content="", token_ids=[15], finish_reason="stop", stop_reason=15),
        )
    )
    assert told.ids == [11, 12, 13, 14, 15]
    assert told.choices[0].text == "a水bc"
    assert told.finished.stop_reasons == [15]
    assert told.finished.usage == Usage(0, 5)


def test_choices() -> None:
    told = read(
        sse(
            chunk(1, content="B"),
            chunk(0, content="A"),
            chunk(1, content="b"),
            chunk(1, finish_reason="length"),
            chunk(0, finish_reason="stop"),
        ),
        reader(2),
    )
    assert [choice.text for choice in told.choices] == ["A", "Bb"]
    assert told.of == [1, 0, 1]
    assert told.finished.finish_reasons == ["stop", "length"]


def test_details_of_usage() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": None},
    }
    told = read(sse(text("a"), chunk(finish_reason="stop") | {"usage": usage}, {"choices": None}))
    assert told.finished.usage == Usage(5, 3, 4, 2)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        sse(done=True),
        sse(text("a"), done=False),
        sse(text("a"), done=True),
        sse(text("a"), USAGE, done=True),
        sse(text("a"), {"error": {"message": "no memory", "code": 500}}, END),
        sse(text("a"), {"error": "no memory", "error_type": "generation"}, done=False),
        sse(text("a"), chunk(finish_reason="abort")),
        sse(text("a"), "{not json"),
        sse(text("a"), "[]"),
        sse(text("a"), {"choices": [{"delta": {"content": 5}}]}),
        sse(text("a"), chunk(1, content="b"), END),
        sse(text("a"), {"choices": [{"index": -1, "delta": {}}]}),
        sse(text("a"), chunk(tool_calls=[{"index": 10**9, "function": {"arguments": "{}"}}])),
        sse(text("a"), done=False) + b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        sse(text("a"), done=False) + b"data: " + b"[" * 100_000 + b"\n\n",
        b"<html>a proxy speaks</html>",
        sse(*[text("x")] * (CONTEXT_TOKENS_MAX + 1), END),
        sse(*[text("x", token_ids=[])] * 1100, END),
    ],
)
def test_broken_answers_fail(raw: bytes) -> None:
    told = read(raw)
    assert told.failed.reason == "engine_error"
    assert told.failed.run == 7
    assert len(told.failed.error) < 1000


def test_what_came_before_a_failure_is_told() -> None:
    told = read(sse(text("a"), {"error": {"message": "no memory"}}))
    assert told.choices[0].text == "a"
    assert "no memory" in told.failed.error


def test_an_end_in_order_needs_no_done() -> None:
    assert read(sse(text("a"), END, USAGE, done=False)).finished.usage == Usage(5, 3)
    assert read(sse(text("a"), END, USAGE, done=False)[:-1]).finished.usage == Usage(5, 3)


def test_a_line_without_end_is_not_kept() -> None:
    one = reader()
    for _ in range(EVENT_BYTES_MAX // 65536):
        assert one.read(b"x" * 65536) == []
    (failed,) = one.read(b"x")
    assert isinstance(failed, EngineFailed)


def logged(*deltas: Delta, ids: list[int] | None = None, of: list[int] | None = None) -> Prefix:
    log = Fold()
    log.add(0, ids or [0] * len(deltas), list(deltas), of or [])
    return prefix_of(log)


def test_what_the_log_has_is_made_again_and_dropped() -> None:
    raw = sse(text("one "), text("two "), text("three"), END, USAGE)
    for cut in range(len("one two three") + 1):
        prefix = logged(Delta("one two three"[:cut])) if cut else None
        for seed in range(5):
            told = read(raw, reader(1, prefix), seed)
            assert "one two three"[:cut] + (told.choices[0].text if told.choices else "") == "one two three"
            assert told.finished.usage == Usage(5, 3), "of the whole request"


def test_tokens_are_compared_by_their_ids() -> None:
    raw = sse(
        text("a", token_ids=[1]), text("b", token_ids=[2]), text("c", token_ids=[3], finish_reason="stop")
    )
    told = read(raw, reader(1, logged(Delta("a"), ids=[1, 2])))
    assert (told.ids, told.choices[0].text) == ([3], "bc"), "text held back by the lost worker comes too"
    assert read(raw, reader(1, logged(Delta("a"), ids=[1, 9]))).failed.reason == "not_continuable"


@pytest.mark.parametrize(
    "prefix",
    [
        logged(Delta("one tee")),
        logged(Delta("one two three four")),
        logged(Delta("", reasoning="hm")),
        logged(Delta("", tools=[ToolPiece(0, "c", "f", "{}")])),
        logged(Delta("one"), Delta("x", choice=1), of=[0, 1]),
    ],
)
def test_what_differs_from_the_log_is_never_spliced(prefix: Prefix) -> None:
    told = read(sse(text("one "), text("two "), text("three"), END), reader(1, prefix))
    assert told.failed.reason == "not_continuable"
    assert "did not repeat" in told.failed.error
    assert not told.ids, "nothing is told that does not follow the log"


def test_embeddings_are_passed_on() -> None:
    result = (
        b' {"object":"list","data":[{"embedding":[0.10,2]}],"usage":{"prompt_tokens":4,"total_tokens":4}}\n'
    )
    one = WholeReader(request())
    assert one.read(result[:10]) == []
    assert one.read(result[10:]) == []
    (finished,) = one.end()
    assert isinstance(finished, EngineFinished)
    assert finished.usage == Usage(4, 0)
    assert finished.result == msgspec.Raw(result.strip())


def test_embeddings_that_are_none() -> None:
    for body in (b"", b"<html>", b"{}", b'{"data":[]', b"\xff"):
        one = WholeReader(request())
        one.read(body)
        (failed,) = one.end()
        assert isinstance(failed, EngineFailed)
        assert failed.reason == "engine_error"
    (failed,) = WholeReader(request()).read(b"x" * (RESULT_BYTES_MAX + 1))
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "bad_request"
