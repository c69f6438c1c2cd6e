"""How vLLM's chunks and the tokens below them become events."""

from __future__ import annotations

import pytest

from schemas.choices import Choice
from schemas.output import Delta, TokenLogprob, ToolPiece, Usage
from schemas.requests import RequestMeta
from workers.engines.base import (
    EngineEvent,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    EngineRequest,
    Prefix,
)
from workers.engines.vllm_chunks import Chunk, Piece, StreamError, chat_chunks, completion_chunks
from workers.engines.vllm_run import Run, reason_of


def run_of(prefix: Prefix | None = None) -> tuple[Run, list[EngineEvent]]:
    events: list[EngineEvent] = []
    return Run(EngineRequest("t.r", 7, b"{}", RequestMeta(), prefix), 0, events.append), events


def text(said: str, choice: int = 0, finish_reason: str | None = None) -> Chunk:
    return Chunk([Piece(Delta(said, choice) if said else None, choice, finish_reason, None)], None, None)


def usage(prompt: int, completion: int) -> Chunk:
    return Chunk([], Usage(prompt, completion), None)


def test_chunks_belong_to_the_output_they_came_of() -> None:
    run, events = run_of()
    run.note([(0, [5])], is_last=False)
    run.take(text("a"))
    run.passed()
    run.note([(0, [6])], is_last=True)
    run.take(text("b", finish_reason="stop"))
    run.passed()
    run.take(usage(3, 2))
    run.finish()
    assert events == [
        EngineOutput("t.r", 7, [5], [Delta("a")]),
        EngineFinished("t.r", 7, ["stop"], Usage(3, 2), [6], [Delta("b")]),
    ]


def test_text_without_tokens_waits() -> None:
    run, events = run_of()
    run.take(text("echo"))
    run.note([], is_last=False)
    run.passed()
    assert not events
    run.note([(0, [5])], is_last=False)
    run.passed()
    assert events == [EngineOutput("t.r", 7, [5], [Delta("echo")])]


def test_tokens_of_several_choices_are_told_apart() -> None:
    run, events = run_of()
    run.note([(0, [5]), (1, [6])], is_last=False)
    run.take(text("a"))
    run.take(text("b", 1))
    run.passed()
    assert events == [EngineOutput("t.r", 7, [5, 6], [Delta("a"), Delta("b", 1)], [0, 1])]


def test_what_the_log_has_comes_no_second_time() -> None:
    run, events = run_of(Prefix([5], [], [Choice(["a"])]))
    for token, said in ((5, "a"), (6, "b")):
        run.note([(0, [token])], is_last=False)
        run.take(text(said))
        run.passed()
    assert events == [EngineOutput("t.r", 7, [6], [Delta("b")])]


def test_other_tokens_than_the_log_has_end_it() -> None:
    run, events = run_of(Prefix([5], [], [Choice(["a"])]))
    run.note([(0, [8])], is_last=False)
    run.passed()
    run.take(text("x", finish_reason="stop"))
    run.finish()
    (failed,) = events
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "not_continuable"


def test_broken_stream_is_the_engines_fault() -> None:
    run, events = run_of()
    run.finish()
    (failed,) = events
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "engine_error"


def test_nothing_is_told_after_the_end() -> None:
    run, events = run_of()
    run.fail(StreamError("no", "BadRequestError", 400))
    run.note([(0, [1])], is_last=False)
    run.passed()
    run.fail(StreamError("no again", "BadRequestError", 400))
    run.finish()
    assert len(events) == 1


def test_reasoning_is_counted_once_more_where_that_is_asked() -> None:
    run, events = run_of()
    run.note([(0, [5, 6]), (1, [7])], is_last=True)
    run.take(text("", finish_reason="stop"))
    run.take(text("", 1, "stop"))
    run.take(Chunk([], Usage(1, 3, reasoning_tokens=9), None))
    run.finish(len)
    finished = events[-1]
    assert isinstance(finished, EngineFinished)
    assert finished.usage.reasoning_tokens == 3


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (400, "temperature must be non-negative", "bad_request"),
        (422, "no", "bad_request"),
        (501, "not implemented", "bad_request"),
        (400, "This model's maximum context length is 1024 tokens", "context_length"),
        (400, "max_tokens=5000 cannot be greater than max_model_len=1024", "context_length"),
        (404, "The model does not exist", "model_not_found"),
        (500, "boom", "engine_error"),
        (503, "later", "engine_error"),
    ],
)
def test_errors_in_our_words(code: int, message: str, reason: str) -> None:
    assert reason_of(StreamError(message, "", code)) == reason


def test_chat_chunk() -> None:
    (chunk,) = chat_chunks(
        'data: {"id":"x","choices":[{"index":1,"delta":{"content":"é","reasoning":"r","tool_calls":[{"index":0,'
        '"id":"c","type":"function","function":{"name":"f","arguments":"{"}}]},"logprobs":{"content":[{"token":"é",'
        '"logprob":-0.5,"bytes":[195,169],"top_logprobs":[{"token":"a","logprob":-1.0,"bytes":[97]}]}]},'
        '"finish_reason":"stop","stop_reason":7}]}\n\n'
    )
    (piece,) = chunk.pieces
    logprob = TokenLogprob("é", -0.5, [195, 169], [TokenLogprob("a", -1.0, [97])])
    assert piece == Piece(Delta("é", 1, "r", [ToolPiece(0, "c", "f", "{")], [logprob]), 1, "stop", 7)


def test_chunks_without_content() -> None:
    event = 'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\ndata: [DONE]\n\n'
    (chunk,) = chat_chunks(event)
    assert chunk.pieces == [Piece(None, 0, None, None)]


def test_completion_chunk() -> None:
    (chunk,) = completion_chunks(
        'data: {"choices":[{"index":0,"text":"ab","logprobs":{"text_offset":[0,1],"token_logprobs":[null,-1.0],'
        '"tokens":["a","b"],"top_logprobs":[null,{"b":-1.0}]},"finish_reason":null}]}\n\n'
    )
    logprobs = [
        TokenLogprob("a", None, text_offset=0),
        TokenLogprob("b", -1.0, top=[TokenLogprob("b", -1.0)], text_offset=1),
    ]
    assert chunk.pieces == [Piece(Delta("ab", logprobs=logprobs), 0, None, None)]


def test_usage_and_error_chunks() -> None:
    (used,) = chat_chunks(
        'data: {"choices":[],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2,'
        '"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":2}}}\n\n'
    )
    assert used.usage == Usage(3, 2, 1, 2)
    (failed,) = chat_chunks('data: {"error":{"message":"boom","type":"InternalServerError","code":500}}\n\n')
    assert failed.error == StreamError("boom", "InternalServerError", 500)
