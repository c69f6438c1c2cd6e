"""Tokens of several choices on their way into the log: whatever is merged, repeated or rebased, nothing moves."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.log import Fold
from schemas.output import Delta, Tok, TokenLogprob, ToolPiece, decode_tok, encode
from workers.tokens import Chunk, Tokens

CHOICES = 3


@st.composite
def chunks(draw: st.DrawFn) -> list[Chunk]:
    """What an engine makes: tokens of some choices, and pieces of all kinds. A call is named in its first piece."""
    named: set[tuple[int, int]] = set()
    made: list[Chunk] = []
    letters = iter(range(10_000))

    def delta(choice: int) -> Delta:
        kinds = draw(st.sets(st.sampled_from(["text", "reasoning", "tools", "logprobs"]), max_size=2))
        tools = []
        if "tools" in kinds:
            for index in draw(st.lists(st.integers(0, 1), min_size=1, max_size=3)):
                name = "" if (choice, index) in named else f"name{choice}{index}"
                named.add((choice, index))
                tools.append(ToolPiece(index, name and f"id{choice}{index}", name, f"<{next(letters)}>"))
        return Delta(
            f"{next(letters)} " if "text" in kinds else "",
            choice,
            f"{next(letters)} " if "reasoning" in kinds else "",
            tools,
            [TokenLogprob(str(next(letters)), -0.5)] if "logprobs" in kinds else [],
        )

    for number in range(draw(st.integers(1, 8))):
        owners = draw(st.lists(st.integers(0, CHOICES - 1), min_size=1, max_size=4))
        if draw(st.booleans()):
            owners = [0] * len(owners)
        deltas = [delta(choice) for choice in owners for _ in range(draw(st.integers(0, 2)))]
        ids = [number * 10 + index for index in range(len(owners))]
        made.append(Chunk(ids, deltas, owners if any(owners) or draw(st.booleans()) else []))
    return made


def said(deltas: list[Delta]) -> dict[int, list[Any]]:
    """Per choice, in the order in which a reader sees it: every letter of every kind."""
    choices: dict[int, list[Any]] = {}
    for delta in deltas:
        heard = choices.setdefault(delta.choice, [])
        heard += [("reasoning", letter) for letter in delta.reasoning]
        heard += [("text", letter) for letter in delta.text]
        for piece in delta.tools:
            heard += [("call", piece.index, piece.id, piece.name)] if piece.name else []
            heard += [("arguments", piece.index, letter) for letter in piece.arguments]
    return {choice: heard for choice, heard in choices.items() if heard}


def content(log: Fold) -> list[Delta]:
    return [choice.whole(index) for index, choice in enumerate(log.choices)]


def fold_of(made: list[Chunk]) -> Fold:
    log = Fold()
    for chunk in made:
        log.add(len(log.ids), *chunk)
    return log


class Broker:
    """The log, record by record."""

    def __init__(self) -> None:
        self.records: list[Tok] = []

    def store(self, chunk: Chunk) -> None:
        off = sum(len(record.ids) for record in self.records)
        self.records.append(decode_tok(encode(Tok(1, off, *chunk))))

    def log(self) -> Fold:
        log = Fold()
        for record in self.records:
            log.add(record.off, record.ids, record.deltas, record.of)
        assert not log.hole
        return log


@given(made=chunks(), data=st.data())
@settings(max_examples=120)
def test_the_log_says_what_the_engine_said(made: list[Chunk], data: st.DataObject) -> None:
    tokens, broker, waiting = Tokens(Fold()), Broker(), list(made)
    while waiting or tokens.has_waiting:
        least = 0 if tokens.has_waiting else 1
        for chunk in waiting[: data.draw(st.integers(least, 3), label="made")]:
            tokens.push(*chunk[:2], chunk.of)
            waiting.pop(0)
        taken = tokens.take(data.draw(st.integers(1, 400), label="bytes_max"))
        outcome = data.draw(st.sampled_from(["stored", "stored, not told", "not stored"]), label="outcome")
        if outcome != "not stored":
            broker.store(taken)
        if outcome == "stored":
            tokens.stored()
        else:
            assert tokens.rebase(broker.log()), "a newer lease finds a prefix"
        tokens.check()
        assert content(tokens.logged) == content(broker.log())
        whole = fold_of(made[: len(made) - len(waiting)])
        assert content(tokens.whole()) == content(whole)
        assert (tokens.whole().ids, tokens.made) == (whole.ids, len(whole.ids))
    log, whole = broker.log(), fold_of(made)
    assert (log.ids, log.of or [0] * len(log.ids)) == (whole.ids, whole.of or [0] * len(whole.ids))
    assert content(log) == content(whole)
    assert said([delta for record in broker.records for delta in record.deltas]) == said(
        [delta for chunk in made for delta in chunk.deltas]
    )


@given(made=chunks())
@settings(max_examples=60)
def test_the_rest_in_one_record_says_it_in_the_same_order(made: list[Chunk]) -> None:
    tokens = Tokens(Fold())
    for chunk in made:
        tokens.push(*chunk[:2], chunk.of)
    rest = tokens.rest()
    assert said(rest.deltas) == said([delta for chunk in made for delta in chunk.deltas])
    assert content(fold_of([rest])) == content(fold_of(made))


@given(made=chunks(), data=st.data())
@settings(max_examples=60)
def test_a_log_that_was_lost_is_said_once_more(made: list[Chunk], data: st.DataObject) -> None:
    tokens = Tokens(Fold())
    for chunk in made:
        tokens.push(*chunk[:2], chunk.of)
    for _ in range(data.draw(st.integers(1, len(made)), label="stored")):
        if tokens.has_waiting:
            tokens.take(data.draw(st.integers(1, 400), label="bytes_max"))
            tokens.stored()
    assert tokens.rebase(Fold())
    assert tokens.off == 0
    assert content(fold_of([tokens.rest()])) == content(fold_of(made))
    assert tokens.rest().ids == [token for chunk in made for token in chunk.ids]


@given(made=chunks())
@settings(max_examples=60)
def test_another_choices_token_is_another_log(made: list[Chunk]) -> None:
    tokens = Tokens(Fold())
    for chunk in made:
        tokens.push(*chunk[:2], chunk.of)
    first = made[0]
    owner = (first.of[0] if first.of else 0) + 1
    assert not tokens.rebase(fold_of([first._replace(of=[owner] * len(first.ids))]))
