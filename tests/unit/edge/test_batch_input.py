"""The lines of a batch's file, cut and checked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.batches.jsonl import FAULTS_MAX, LINES_MAX, Checker, Line, Lines, Request, read_line
from edge.batches.records import LineFault, Url

CHAT: Url = "/v1/chat/completions"
BYTES_MAX = 1000


def cut(data: bytes, pieces: int = 1, bytes_max: int = BYTES_MAX) -> list[Line]:
    lines = Lines(bytes_max=bytes_max)
    size = -(-len(data) // pieces) or 1
    found = []
    for at in range(0, len(data), size):
        found += lines.feed(data[at : at + size])
    return found + lines.finish()


def line(**fields: Any) -> bytes:
    whole = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}, **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


def faults_of(data: bytes) -> list[tuple[int | None, str]]:
    checker = Checker(CHAT)
    for one in cut(data):
        checker.add(one)
    checker.finish()
    return [(fault.line, fault.code) for fault in checker.faults]


@given(st.lists(st.binary(max_size=30).filter(lambda raw: b"\n" not in raw)), st.integers(1, 50))
def test_lines_are_what_they_were_however_they_come(texts: list[bytes], pieces: int) -> None:
    data = b"\n".join(texts)
    known = [Line(number, raw) for number, raw in enumerate(data.split(b"\n"), 1) if raw.strip()]
    assert cut(data, pieces) == known


@given(st.integers(1, 40))
def test_a_line_that_is_too_long_is_not_kept_and_hides_no_other(pieces: int) -> None:
    data = b"short\n" + b"x" * 5000 + b"\nshort again"
    assert cut(data, pieces) == [Line(1, b"short"), Line(2, None), Line(3, b"short again")]


def test_what_a_cutter_holds_is_bounded() -> None:
    lines = Lines(bytes_max=BYTES_MAX)
    for _ in range(100):
        assert lines.feed(b"x" * 500) == []
        assert len(lines._rest) <= BYTES_MAX


def test_a_request_keeps_its_body_byte_for_byte() -> None:
    raw = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body": {"model" : "m" ,"x":1.0}}\r'
    request = read_line(Line(1, raw), CHAT)
    assert isinstance(request, Request)
    assert bytes(request.body) == b'{"model" : "m" ,"x":1.0}'


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (b"[1]", "invalid_request", None),
        (line(custom_id=None), "missing_required_parameter", "custom_id"),
        (line(method=None), "missing_required_parameter", "method"),
        (line(url=None), "missing_required_parameter", "url"),
        (line(body=None), "missing_required_parameter", "body"),
        (line(custom_id=7), "invalid_request", None),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
    ],
)
def test_what_is_wrong_with_a_line(raw: bytes, code: str, param: str | None) -> None:
    fault = read_line(Line(3, raw), CHAT)
    assert isinstance(fault, LineFault)
    assert (fault.code, fault.param, fault.line) == (code, param, 3)


def test_a_line_that_was_too_long_is_told() -> None:
    fault = read_line(Line(3, None), CHAT)
    assert isinstance(fault, LineFault)
    assert fault.code == "line_too_long"


def test_a_file_is_good_or_each_of_its_faults_is_told_with_its_line() -> None:
    assert faults_of(line() + b"\n\n" + line(custom_id="b") + b"\n") == []
    assert faults_of(line() + b"\n\n" + line() + b"\n{\n" + line(method="GET")) == [
        (3, "duplicate_custom_id"),
        (4, "invalid_json_line"),
        (5, "invalid_method"),
    ]
    assert faults_of(b"\n \n") == [(None, "empty_file")]


def test_neither_many_lines_nor_many_faults_are_looked_at_to_the_end() -> None:
    checker = Checker(CHAT)
    for number in range(1, LINES_MAX + 1):
        checker.add(Line(number, line(custom_id=str(number))))
    assert not checker.faults
    assert not checker.hopeless
    checker.add(Line(LINES_MAX + 1, line(custom_id="one more")))
    assert [fault.code for fault in checker.faults] == ["too_many_lines"]
    assert checker.hopeless
    checker = Checker(CHAT)
    for number in range(FAULTS_MAX):
        assert not checker.hopeless
        checker.add(Line(number, b"{"))
    assert checker.hopeless
