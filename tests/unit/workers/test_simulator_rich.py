"""What the simulator makes beyond one text: choices, reasoning, calls, logprobs, embeddings. All go on exactly."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.choices import Choice
from schemas.log import Fold
from schemas.output import TokenLogprob
from schemas.requests import CHOICES_MAX, RequestMeta
from workers.engines.base import EngineFinished, EngineOutput, EngineRequest, Prefix, prefix_of
from workers.engines.simulator import InvalidRequest, reference_text
from workers.engines.simulator_rich import CALL_TOKENS, DIMENSIONS, THINKING_TOKENS
from workers.engines.simulator_run import Run, new_run

CONTEXT = 200
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
]
NAMED = {"type": "function", "function": {"name": "time"}}


def begin(prefix: Prefix | None = None, header_max: int = 0, **body: Any) -> Run:
    if "input" not in body:
        body.setdefault("prompt", "water")
    data = msgspec.json.encode(body)
    return new_run(EngineRequest("k", 1, data, RequestMeta(max_tokens=header_max), prefix), CONTEXT)


def steps_of(run: Run) -> tuple[list[EngineOutput | EngineFinished], EngineFinished]:
    events: list[EngineOutput | EngineFinished] = []
    while True:
        events.append(run.step())
        if isinstance(events[-1], EngineFinished):
            return events, events[-1]


def folded(events: list[EngineOutput | EngineFinished], onto: Fold | None = None) -> Fold:
    log = onto or Fold()
    for event in events:
        log.add(len(log.ids), event.ids, event.deltas, event.of)
    return log


def content(log: Fold) -> list[Any]:
    return [choice.whole(index) for index, choice in enumerate(log.choices)]


def whole(**body: Any) -> tuple[Fold, EngineFinished]:
    events, end = steps_of(begin(**body))
    return folded(events), end


def test_each_choice_is_the_text_of_the_next_seed() -> None:
    log, end = whole(n=3, seed=5, max_tokens=12)
    assert log.texts == [reference_text("water", 5 + choice, 12) for choice in range(3)]
    assert end.finish_reasons == ["length"] * 3
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (1, 36)
    assert log.of == [0, 1, 2] * 12


def test_one_choice_names_no_choices() -> None:
    events, _ = steps_of(begin(n=1, max_tokens=3))
    assert [event.of for event in events] == [[], [], []]


def test_each_choice_ends_by_itself() -> None:
    log, end = whole(n=4)
    lengths = [log.of.count(choice) for choice in range(4)]
    assert len(set(lengths)) > 1
    assert log.texts == [reference_text("water", choice, lengths[choice]) for choice in range(4)]
    assert end.finish_reasons == ["stop"] * 4
    limited, cut = whole(n=4, header_max=sorted(lengths)[1])
    assert cut.finish_reasons == ["stop" if length <= sorted(lengths)[1] else "length" for length in lengths]
    assert all(text.startswith(part) for text, part in zip(log.texts, limited.texts, strict=True))


def test_a_stop_string_ends_its_choice_only() -> None:
    first, second = (reference_text("water", seed, 30) for seed in (0, 1))
    stop = next(word for word in second.split() if f" {word} " in second and word not in first)
    log, end = whole(n=2, max_tokens=30, stop=stop)
    assert log.texts == [first, second[: second.index(stop)]]
    assert (end.finish_reasons, end.stop_reasons) == (["length", "stop"], [None, stop])


@pytest.mark.parametrize("effort", ["none", "low", "high"])
def test_reasoning_comes_before_the_answer_and_counts(effort: str) -> None:
    log, end = whole(reasoning_effort=effort, max_tokens=40)
    thinks = THINKING_TOKENS[effort]
    [choice] = log.choices
    assert (len(choice.reasoning.split()), len(choice.text.split())) == (thinks, 40 - thinks)
    assert end.usage.completion_tokens == 40
    assert end.usage.reasoning_tokens == (thinks or None)
    assert choice.reasoning == reference_text("water", 0, thinks)
    assert not choice.text.startswith(" ")


def test_who_thinks_too_long_has_no_answer() -> None:
    log, end = whole(reasoning_effort="high", max_tokens=3)
    assert (log.texts, end.finish_reasons, end.usage.reasoning_tokens) == ([""], ["length"], 3)


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
@pytest.mark.parametrize("effort", ["none", "low"])
def test_a_call_is_made_in_pieces(choice: Any, reason: str, effort: str) -> None:
    events, end = steps_of(begin(tools=TOOLS, tool_choice=choice, reasoning_effort=effort, max_tokens=50))
    pieces = [piece for event in events for delta in event.deltas for piece in delta.tools]
    assert len(pieces) == CALL_TOKENS
    assert [bool(piece.id and piece.name) for piece in pieces] == [True] + [False] * (CALL_TOKENS - 1)
    assert pieces[0].name in ("time", "weather")
    assert choice == "required" or pieces[0].name == "time"
    arguments = json.loads("".join(piece.arguments for piece in pieces))
    assert len(arguments["text"].split()) == CALL_TOKENS
    assert end.finish_reasons == [reason]
    assert end.usage.completion_tokens == CALL_TOKENS + THINKING_TOKENS[effort]


def test_a_call_that_is_cut_off_says_so() -> None:
    log, end = whole(tools=TOOLS, tool_choice="required", max_tokens=3)
    assert end.finish_reasons == ["length"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(log.choices[0].tools[0].arguments)


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_nobody_has_to_call(choice: str | None) -> None:
    log, _ = whole(tools=TOOLS, tool_choice=choice, max_tokens=9)
    assert log.texts == [reference_text("water", 0, 9)]


@pytest.mark.parametrize(
    ("asked", "top"),
    [({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3), ({"logprobs": 0}, 0)],
)
def test_logprobs_are_told_for_each_token(asked: dict[str, Any], top: int) -> None:
    log, _ = whole(max_tokens=9, **asked)
    [choice] = log.choices
    assert "".join(logprob.token for logprob in choice.logprobs) == choice.text
    for logprob in choice.logprobs:
        assert bytes(logprob.bytes or []).decode() == logprob.token
        assert logprob.logprob is not None
        assert logprob.logprob <= 0
        assert [likely.token for likely in logprob.top][:1] == [logprob.token][:top]
        assert len({likely.token for likely in logprob.top}) == top
        ranks = [likely.logprob for likely in logprob.top if likely.logprob is not None]
        assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize("asked", [{}, {"logprobs": False}, {"logprobs": None}])
def test_logprobs_are_told_to_who_asks(asked: dict[str, Any]) -> None:
    assert whole(max_tokens=9, **asked)[0].choices[0].logprobs == []


BODIES = st.fixed_dictionaries(
    {
        "n": st.integers(1, 3),
        "seed": st.integers(0, 5),
        "logprobs": st.sampled_from([None, 0, 2]),
        "reasoning_effort": st.sampled_from([None, "minimal", "low"]),
        "stop": st.sampled_from([None, "a", ["flo", " of "], "never in it"]),
        "tools": st.just(TOOLS),
        "tool_choice": st.sampled_from([None, "required", NAMED]),
        "max_tokens": st.sampled_from([None, 1, 6, 25]),
    }
)


@given(body=BODIES, data=st.data())
@settings(max_examples=150)
def test_a_continuation_from_any_prefix_equals_the_whole(body: dict[str, Any], data: st.DataObject) -> None:
    events, end = steps_of(begin(**body))
    cut = data.draw(st.integers(0, len(events)), label="cut")
    log = folded(events[:cut])
    if cut < len(events) and data.draw(st.booleans(), label="content of the next step is lost"):
        log.add(len(log.ids), events[cut].ids, [], events[cut].of)
    more, end_again = steps_of(begin(prefix_of(log) if log.ids else None, **body))
    again = folded(more, log)
    assert content(again) == content(folded(events))
    assert [again_of(again, choice) for choice in range(body["n"])] == [
        again_of(folded(events), choice) for choice in range(body["n"])
    ]
    assert (end_again.finish_reasons, end_again.usage) == (end.finish_reasons, end.usage)


def again_of(log: Fold, choice: int) -> list[int]:
    return prefix_of(log).ids_of(choice)


@given(body=BODIES, kept=st.lists(st.integers(0, 25), min_size=3, max_size=3))
@settings(max_examples=100)
def test_choices_may_have_come_to_different_places(body: dict[str, Any], kept: list[int]) -> None:
    events, _ = steps_of(begin(**body))
    log, single = folded(events), Fold()
    ids = [prefix_of(log).ids_of(choice)[: kept[choice]] for choice in range(body["n"])]
    for choice, tokens in enumerate(ids):
        single.add(len(single.ids), tokens, [], [choice] * len(tokens))
    prefix = Prefix(single.ids, single.of, [Choice() for _ in ids]) if single.ids else None
    more, _ = steps_of(begin(prefix, **body))
    assert content(folded(more, single)) == content(log)


def test_embeddings_are_unit_vectors_that_follow_from_the_text() -> None:
    log, end = whole(input=["one text", "another", "one text"], model="m")
    assert end.result is not None
    answer = json.loads(bytes(end.result))
    vectors = [one["embedding"] for one in answer["data"]]
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert vectors[0] == vectors[2] != vectors[1]
    for vector in vectors:
        assert len(vector) == DIMENSIONS
        assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-6)
    assert (answer["object"], answer["model"]) == ("list", "m")
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (5, 0)
    assert (log.ids, end.finish_reasons) == ([], [])


def vectors_of(**body: Any) -> list[Any]:
    _, end = whole(**body)
    assert end.result is not None
    return [one["embedding"] for one in json.loads(bytes(end.result))["data"]]


@pytest.mark.parametrize("given", ["one text", [1, 2, 3], [[1, 2], [3]]])
def test_both_encodings_hold_the_same_numbers(given: Any) -> None:
    plain = vectors_of(input=given, dimensions=7)
    packed = vectors_of(input=given, dimensions=7, encoding_format="base64")
    assert [list(struct.unpack("<7f", base64.b64decode(one))) for one in packed] == plain


def test_several_prompts_say_what_each_says_alone() -> None:
    asked = {"n": 2, "seed": 3, "max_tokens": 9, "logprobs": 1}
    log, end = whole(prompt=["one", "two of them"], **asked)
    alone = [whole(prompt=prompt, **asked) for prompt in ("one", "two of them")]
    assert [choice.text for choice in log.choices] == [c.text for one, _ in alone for c in one.choices]
    assert end.usage.prompt_tokens == sum(one.usage.prompt_tokens for _, one in alone)
    assert end.usage.completion_tokens == 36


def test_tokens_are_a_text_of_their_own() -> None:
    assert vectors_of(input=[1, 2]) == vectors_of(input=[[1, 2]]) != vectors_of(input=["1", "2"])


def test_who_sends_messages_or_a_prompt_wants_text() -> None:
    log, _ = whole(input="not this", prompt="water", max_tokens=3)
    assert log.texts == [reference_text("water", 0, 3)]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"n": 0}, "n"),
        ({"n": CHOICES_MAX + 1}, "n"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "none"}}}, "`none`"),
        ({"tools": [{"type": "function"}]}, "function"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"reasoning_effort": "very"}, "reasoning_effort"),
        ({"input": []}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a " * (CONTEXT + 1)}, "context"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(body: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        begin(**body)


def test_a_logprob_is_the_same_wherever_it_is_told() -> None:
    whole_log, _ = whole(max_tokens=9, logprobs=2)
    part = folded(steps_of(begin(max_tokens=9, logprobs=2))[0][:4])
    more, _ = steps_of(begin(prefix_of(part), max_tokens=9, logprobs=2))
    told: list[TokenLogprob] = folded(more, part).choices[0].logprobs
    assert told == whole_log.choices[0].logprobs
