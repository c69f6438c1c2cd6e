"""Going on after a prefix that is made again: nothing twice, nothing lost, and no silent splice."""

from __future__ import annotations

from random import Random

import pytest

from schemas.log import Fold
from schemas.output import Delta, TokenLogprob, ToolPiece
from workers.engines.base import Prefix, prefix_of
from workers.engines.replay import Differs, Made, Replay


def _output(random: Random, choices: int) -> list[Made]:
    """Events of an engine, one token each; some hold back what they release, others release it later."""
    made: list[Made] = []
    held = dict.fromkeys(range(choices), "")
    for index in range(random.randrange(1, 40)):
        choice = random.randrange(choices)
        held[choice] += random.choice(["a", "é", "river ", "{", '"'])
        deltas: list[Delta] = []
        if random.random() < 0.7:
            kind = random.randrange(4)
            text, held[choice] = held[choice], ""
            logprobs = [TokenLogprob(text, -random.random())]
            if kind == 0:
                deltas.append(Delta("", choice, reasoning=text))
            elif kind == 1:
                piece = ToolPiece(0, f"call-{random.random()}" if index == 0 else "", "", text)
                deltas.append(Delta("", choice, tools=[piece]))
            else:
                deltas.append(Delta(text, choice, logprobs=logprobs if kind == 2 else []))
        made.append(Made([random.randrange(1, 9)], deltas, [choice] if choices > 1 else []))
    return made


def _fold(events: list[Made]) -> Fold:
    folded = Fold()
    for event in events:
        folded.add(len(folded.ids), event.ids, event.deltas, event.of)
    return folded


def _coalesced(random: Random, events: list[Made]) -> list[Made]:
    """The same output in other portions."""
    portions: list[Made] = []
    rest = list(events)
    while rest:
        count = random.randrange(1, 4)
        group, rest = rest[:count], rest[count:]
        ids = [token for event in group for token in event.ids]
        of = [choice for event in group for choice in event.of]
        portions.append(Made(ids, [delta for event in group for delta in event.deltas], of))
    return portions


@pytest.mark.parametrize("seed", range(300))
def test_prefix_and_rest_are_the_whole(seed: int) -> None:
    random = Random(seed)
    events = _output(random, choices=random.choice([1, 1, 2, 3]))
    whole = _fold(events)
    cut = random.randrange(len(events) + 1)
    log = _fold(events[:cut])
    replay = Replay(prefix_of(log) if log.ids else None, has_ids=True)
    for event in _coalesced(random, events):
        made = replay.take(event.ids, event.deltas, event.of)
        if made is not None:
            assert made.ids, "content without a token could not be told from its repeat"
            log.add(len(log.ids), made.ids, made.deltas, made.of)
    log.add(len(log.ids), [], replay.finish(), [])
    for choice in range(len(whole.choices)):
        assert prefix_of(log).ids_of(choice) == prefix_of(whole).ids_of(choice)
        one, other = log.choices[choice], whole.choices[choice]
        assert (one.text, one.reasoning) == (other.text, other.reasoning)
        assert [call.arguments for call in one.tools] == [call.arguments for call in other.tools]
        assert [logprob.token for logprob in one.logprobs] == [logprob.token for logprob in other.logprobs]


def _prefix(ids: list[int], delta: Delta) -> Prefix:
    log = Fold()
    log.add(0, ids, [delta])
    return prefix_of(log)


@pytest.mark.parametrize(
    ("logged", "again"),
    [
        (Delta("ab"), Delta("ax")),
        (Delta("", reasoning="ab"), Delta("", reasoning="b")),
        (Delta("", tools=[ToolPiece(0, "1", "f", "{")]), Delta("", tools=[ToolPiece(0, "2", "g", "{")])),
        (Delta("", tools=[ToolPiece(0, "1", "f", "{")]), Delta("", tools=[ToolPiece(0, "2", "f", "[")])),
        (Delta("a", logprobs=[TokenLogprob("a", -1.0)]), Delta("a", logprobs=[TokenLogprob("b", -1.0)])),
    ],
    ids=["text", "reasoning", "name", "arguments", "logprob"],
)
def test_what_differs_from_the_log_is_never_spliced(logged: Delta, again: Delta) -> None:
    with pytest.raises(Differs):
        Replay(_prefix([1], logged), has_ids=True).take([1], [again], [])


def test_another_token_is_never_spliced() -> None:
    with pytest.raises(Differs, match="token 1"):
        Replay(_prefix([1, 2], Delta("ab")), has_ids=True).take([1, 3], [Delta("ab")], [])


def test_an_output_that_ends_inside_the_prefix_is_an_error() -> None:
    replay = Replay(_prefix([1, 2], Delta("ab")), has_ids=True)
    assert replay.take([1], [Delta("a")], []) is None
    assert not replay.is_over
    with pytest.raises(Differs):
        replay.finish()


def test_a_call_keeps_the_id_it_was_first_told_with() -> None:
    replay = Replay(_prefix([1], Delta("", tools=[ToolPiece(0, "first", "f", "{")])), has_ids=True)
    made = replay.take([1, 2], [Delta("", tools=[ToolPiece(0, "second", "f", '{"a"')])], [])
    assert made == Made([2], [Delta("", tools=[ToolPiece(0, "", "", '"a"')])])


def test_without_ids_the_content_says_where_the_log_ends() -> None:
    log = Fold()
    for index, text in enumerate(["one ", "two "]):
        log.add(index, [0], [Delta(text)])
    replay = Replay(prefix_of(log), has_ids=False)
    # Another run may cut the text into other pieces.
    assert replay.take([0], [Delta("one two")], []) is None
    assert replay.take([0], [Delta(" three")], []) == Made([0], [Delta("three")])
    assert replay.take([0], [Delta(" four")], []) == Made([0], [Delta(" four")])
    assert replay.finish() == []


def test_nothing_new_comes_before_all_that_the_log_has() -> None:
    log = Fold()
    log.add(0, [0], [Delta("", reasoning="hm")])
    replay = Replay(prefix_of(log), has_ids=False)
    with pytest.raises(Differs, match="before all"):
        replay.take([0], [Delta("an answer without a thought")], [])
