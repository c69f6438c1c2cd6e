"""What llama.cpp says, read."""

from __future__ import annotations

import msgspec
import pytest

from schemas.output import Delta, TokenLogprob, ToolPiece, Usage
from workers.engines.llamacpp_chunks import Fault, Totals, decode_chunk

ROLE = b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}'
PROGRESS = ROLE[:-1] + b',"prompt_progress":{"total":25,"cache":0,"processed":0,"time_ms":0}}'


@pytest.mark.parametrize("data", [ROLE, PROGRESS, b'{"choices":[]}', b"{}"])
def test_what_puts_nothing_out(data: bytes) -> None:
    assert decode_chunk(data).deltas(shows_top=True) == []


def test_chat() -> None:
    chunk = decode_chunk(
        b'{"choices":[{"index":1,"delta":{"content":"a","reasoning_content":"b","tool_calls":[{"index":2,"id":"i",'
        b'"type":"function","function":{"name":"f","arguments":"{"}},{"index":2,"function":{"arguments":"}"}}]}}]}'
    )
    tools = [ToolPiece(2, "i", "f", "{"), ToolPiece(2, "", "", "}")]
    assert chunk.deltas(shows_top=False) == [Delta("a", 1, "b", tools)]


def test_completion_with_logprobs() -> None:
    data = (
        b'{"choices":[{"text":"a","index":0,"logprobs":{"content":[{"id":7,"token":"a","bytes":[97],"logprob":-0.5,'
        b'"top_logprobs":[{"id":7,"token":"a","bytes":[97],"logprob":null}]}]}}]}'
    )
    bare = TokenLogprob("a", -0.5, [97])
    assert decode_chunk(data).deltas(shows_top=False) == [Delta("a", logprobs=[bare])]
    with_top = TokenLogprob("a", -0.5, [97], [TokenLogprob("a", None, [97])])
    assert decode_chunk(data).deltas(shows_top=True) == [Delta("a", logprobs=[with_top])]


def test_totals_count_the_prompt_once_and_every_completion() -> None:
    totals = Totals(2, of_each=2)
    usage = (
        b'{"usage":{"prompt_tokens":25,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":24}}}'
    )
    totals.add(decode_chunk(b'{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}'))
    totals.add(decode_chunk(usage % 3))
    assert totals.sums() is None, "choice 0 is not over"
    totals.add(decode_chunk(b'{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}'))
    totals.add(decode_chunk(usage % 4))
    assert totals.sums() == (["length", "stop"], Usage(25, 7, 24))


def test_totals_count_each_prompt_once() -> None:
    totals = Totals(4, of_each=2)
    for choice in range(4):
        end = b'{"choices":[{"index":%d,"text":"","finish_reason":"stop"}]}' % choice
        totals.add(decode_chunk(end))
        tokens = 5 if choice < 2 else 7
        totals.add(decode_chunk(b'{"usage":{"prompt_tokens":%d,"completion_tokens":1}}' % tokens))
    assert totals.sums() == (["stop"] * 4, Usage(12, 4))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("x", 400, "invalid_request_error"), "bad_request"),
        (Fault("x", 400, "exceed_context_size_error"), "context_length"),
        (Fault("x", 501, "not_supported_error"), "bad_request"),
        (Fault("x", 500, "server_error"), "engine_error"),
        (Fault("x", 503, "unavailable_error"), "engine_error"),
    ],
)
def test_faults(fault: Fault, reason: str) -> None:
    assert fault.reason == reason
    assert decode_chunk(msgspec.json.encode({"error": fault})).error == fault


def test_nonsense_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_chunk(b'{"choices":[{"index":"a"}]}')
