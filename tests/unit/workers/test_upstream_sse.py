"""Event streams in any pieces say the same."""

from __future__ import annotations

import random

import pytest

from workers.engines.upstream_sse import EventStream, TooLong


def payloads(pieces: list[bytes], event_bytes_max: int = 10_000) -> list[str]:
    stream = EventStream(event_bytes_max)
    told = [event for piece in pieces for event in stream.feed(piece)]
    return [event.decode() for event in told + stream.finish()]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("seed", range(50))
def test_any_chunking_says_the_same(end: str, seed: int) -> None:
    texts = ["penstock", "", "größe 水門 🌊", '{"a": "b:c"}', " two spaces", "data: in data"]
    lines: list[str] = []
    for text in texts:
        lines += [": a comment", f"data: {text}", "event: x", "id: 7", "retry: 9", "unknown", ""]
    lines += [
        "data:no space",
        "",
        "data: one",
        "data: two",
        "",
        "",
        ": alone",
        "",
        "data",
        "",
        "data: [DONE]",
        "",
    ]
    raw = "".join([line + end for line in lines]).encode()
    chance = random.Random(seed)
    cuts = sorted(chance.choices(range(len(raw) + 1), k=chance.randrange(1, 80)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert payloads(pieces) == [*texts, "no space", "one\ntwo", "", "[DONE]"]


def test_byte_by_byte() -> None:
    raw = "data: ü\r\n\r\ndata: 水\r\rdata: x\n\n".encode()
    assert payloads([raw[i : i + 1] for i in range(len(raw))]) == ["ü", "水", "x"]


def test_the_last_event_may_lack_its_empty_line() -> None:
    assert payloads([b"data: a\n\ndata: [DO", b"NE]"]) == ["a", "[DONE]"]
    assert payloads([b"data: a\n\ndata: b\n"]) == ["a", "b"]


def test_what_is_kept_is_bounded() -> None:
    for piece in (b"x" * 10, b"data: 123\n"):
        stream = EventStream(1000)
        for _ in range(100):
            assert stream.feed(piece) == []
        with pytest.raises(TooLong):
            stream.feed(piece * 20)
    stream = EventStream(1000)
    for _ in range(1000):
        assert stream.feed(b"data: 1234\n\n: a comment\n") == [b"1234"]
