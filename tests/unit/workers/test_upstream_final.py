"""A chat's answer that was cut off goes on as its final message where that is exact, and from its start where not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.choices import Choice, add_deltas
from schemas.log import Fold
from schemas.output import Delta, Usage
from schemas.requests import RequestMeta
from workers.engines.base import EngineEvent, EngineFailed, EngineFinished, EngineRequest, prefix_of
from workers.engines.upstream_call import Call, Upstream
from workers.engines.upstream_run import Run, Wait

ANSWER = "größe der 水門, and a river"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 40}


class TinyVllm:
    """A vLLM whose tokens are characters. Its faults: `trims` the final message, its template `thinks` before an
    answer that begins, it `merges` two of the answer's tokens when it encodes them, it is `mute` about ids, it
    `refuses` a final message, it takes the rest for `reasoning`."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.asked: list[dict[str, Any]] = []

    def prompt_of(self, body: dict[str, Any]) -> list[int]:
        continues = body.get("continue_final_message", False)
        text = "".join([message["content"] for message in body["messages"]])
        if continues and self.fault == "trims":
            text = text.rstrip()
        if not continues and self.fault == "thinks":
            text += "<think>"
        ids = [ord(character) for character in text]
        return [*ids[:-2], ids[-2] * 1000 + ids[-1]] if continues and self.fault == "merges" else ids

    def answer(self, run: Run, content: bytes) -> list[EngineEvent] | Wait | EngineFailed:
        body = json.loads(content)
        self.asked.append(body)
        prompt, continues = self.prompt_of(body), body.get("continue_final_message", False)
        if continues and self.fault == "refuses":
            return run.refused(400, {}, b'{"error":{"message":"no such template"}}', 0.5)
        told = {} if self.fault == "mute" else {"prompt_token_ids": prompt}
        if not body["stream"]:
            assert body["max_tokens"] == 1
            assert "stream_options" not in body
            first = {"index": 0, "message": {}, "token_ids": [ord(ANSWER[0])]}
            return run.read(json.dumps({**told, "choices": [first]}).encode()) + run.end()
        known = len(body["messages"][-1]["content"]) if continues else 0
        rest = ANSWER[known:]
        kind = "reasoning" if continues and self.fault == "reasoning" else "content"
        chunks: list[dict[str, Any]] = [
            {**told, "choices": [{"delta": {"role": "assistant", "content": ""}}]}
        ]
        chunks += [{"choices": [{"delta": {kind: one}, "token_ids": [ord(one)]}]} for one in rest]
        chunks.append({"choices": [{"delta": {}, "token_ids": [2], "finish_reason": "stop"}]})
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(rest) + 1}
        chunks.append({"choices": [], "usage": usage})
        events: list[EngineEvent] = []
        for chunk in chunks:
            events += run.read(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            if run.asks_again:
                return events
        return events + run.read(b"data: [DONE]\n\n")


def a_run(cut: int, **fields: Any) -> Run:
    log = Fold()
    log.add(0, [ord(one) for one in ANSWER[:cut]], [Delta(ANSWER[:cut])])
    raw = json.dumps(BODY | fields).encode()
    request = EngineRequest("t.r1", 1, raw, RequestMeta(), prefix_of(log))
    return Run(request, Call(request, Upstream("m", tells_ids=True)), 1000, {})


def play(server: TinyVllm, run: Run, cut: int) -> EngineFinished:
    """All that is told follows the log."""
    told: list[EngineEvent] = []
    while True:
        outcome = server.answer(run, run.ask(0.0))
        assert not isinstance(outcome, EngineFailed), outcome
        told += [] if isinstance(outcome, Wait) else outcome
        if told and isinstance(told[-1], EngineFinished):
            break
        assert run.asks_again or isinstance(outcome, Wait)
        assert len(server.asked) < 5
    choices, ids = [Choice([ANSWER[:cut]])], [ord(one) for one in ANSWER[:cut]]
    for event in told:
        assert not isinstance(event, EngineFailed)
        add_deltas(choices, event.deltas)
        ids += event.ids
    assert choices[0].text == ANSWER
    assert ids == [*map(ord, ANSWER), 2]
    return told[-1]


@pytest.mark.parametrize("cut", range(1, len(ANSWER)))
def test_the_rest_is_asked_for_and_counted_as_a_part(cut: int) -> None:
    server = TinyVllm()
    finished = play(server, a_run(cut), cut)
    assert finished.usage == Usage(2, len(ANSWER) + 1)
    assert finished.finish_reasons == ["stop"]
    probe, final = server.asked
    assert probe["messages"] == BODY["messages"]
    assert final["messages"] == [*BODY["messages"], {"role": "assistant", "content": ANSWER[:cut]}]
    assert (final["continue_final_message"], final["add_generation_prompt"]) == (True, False)
    assert final["max_tokens"] == 40 - cut


@pytest.mark.parametrize("fault", ["thinks", "merges", "mute", "refuses", "reasoning"])
def test_what_is_not_exact_is_made_again_from_its_start(fault: str) -> None:
    server = TinyVllm(fault)
    finished = play(server, a_run(9), 9)
    assert finished.usage == Usage(9 if fault == "thinks" else 2, len(ANSWER) + 1)
    assert server.asked[-1]["messages"] == BODY["messages"]
    assert server.asked[-1]["stream"] is True
    assert len(server.asked) == (2 if fault == "mute" else 3)


def test_a_template_that_trims_shows_only_where_there_is_something_to_trim() -> None:
    at_space = ANSWER.index(" ") + 1
    for cut, asked in ((at_space, 3), (at_space + 1, 2)):
        server = TinyVllm("trims")
        play(server, a_run(cut), cut)
        assert len(server.asked) == asked


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5},
        {"stop": ["x"]},
        {"presence_penalty": 1},
        {"tools": []},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"min_tokens": 3},
        {"n": 2},
        {"max_tokens": 9},
        {"max_tokens": None},
        {"an_unknown_field": 1},
    ],
)
def test_only_what_leaves_no_state_behind_is_continued(fields: dict[str, Any]) -> None:
    run = a_run(9, **fields)
    assert "continue_final_message" not in json.loads(run.ask(0.0))
    assert json.loads(run.ask(0.0))["stream"] is True


def test_what_was_lost_in_the_rest_is_told() -> None:
    run = a_run(9)
    server = TinyVllm()
    server.answer(run, run.ask(0.0))
    run.ask(0.0)
    prompt = server.prompt_of({"messages": [*BODY["messages"], {"content": ANSWER[:9]}]})
    chunk = {"prompt_token_ids": prompt, "choices": [{"delta": {"content": "x"}, "token_ids": [1]}]}
    assert len(run.read(b"data: " + json.dumps(chunk).encode() + b"\n\n")) == 1
    assert isinstance(run.broke("reset", 0.5), EngineFailed)
