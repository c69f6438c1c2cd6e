"""The codec: frames cut anywhere come out whole, and nothing a caller says can forge one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import wire

Frame = tuple[bytes, bytes, bytes, bytes, bytes]

HEADERS = wire.encode_headers({"A": "1", "Long-Name": "x y"})


def as_delivered(frame: Frame) -> bytes:
    sid, subject, reply, headers, payload = frame
    between = b" %b " % reply if reply else b" "
    if headers:
        sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
        return b"HMSG %b %b%b%b\r\n%b%b\r\n" % (subject, sid, between, sizes, headers, payload)
    return b"MSG %b %b%b%d\r\n%b\r\n" % (subject, sid, between, len(payload), payload)


frames = st.tuples(
    st.sampled_from([b"1", b"42"]),
    st.sampled_from([b"a", b"a.b.c"]),
    st.sampled_from([b"", b"_INBOX.x.1"]),
    st.sampled_from([b"", HEADERS]),
    st.binary(max_size=60),
)


@given(st.lists(frames, max_size=6), st.data())
def test_frames_cut_anywhere_come_out_whole_and_in_order(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"PING\r\n".join(as_delivered(frame) for frame in sent) + b"+OK\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser, seen, control = wire.Parser(), [], []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        control += parser.feed(stream[start:end], lambda *frame: seen.append(frame))
    assert seen == sent
    assert control == [b"PING"] * max(0, len(sent) - 1) + [b"+OK"]


def test_a_reset_forgets_half_a_frame() -> None:
    parser, seen = wire.Parser(), []
    parser.feed(b"MSG a 1 5\r\nhel", lambda *frame: seen.append(frame))
    parser.reset()
    parser.feed(b"MSG b 1 2\r\nok\r\n", lambda *frame: seen.append(frame))
    assert seen == [(b"1", b"b", b"", b"", b"ok")]


def test_publish_frames() -> None:
    assert wire.encode_publish(b"a", b"", b"", b"hi") == b"PUB a  2\r\nhi\r\n"
    assert wire.encode_publish(b"a", b"r", b"", b"hi") == b"PUB a r 2\r\nhi\r\n"
    size = len(HEADERS)
    assert wire.encode_publish(b"a", b"r", HEADERS, b"hi") == b"HPUB a r %d %d\r\n%bhi\r\n" % (
        size,
        size + 2,
        HEADERS,
    )


def test_headers_read_back() -> None:
    block = wire.encode_headers({"Penstock-Edge": "e1", "traceparent": "00-ab: cd"})
    assert wire.parse_headers(block) == {"Penstock-Edge": "e1", "traceparent": "00-ab: cd"}
    assert wire.header_value(block, b"Penstock-Edge") == b"e1"
    assert wire.header_value(block, b"Edge") is None, "a name must match from its start"
    assert wire.status_of(block) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("A", "1\r\nNats-Msg-Id: x"), ("A\n", "1"), ("A:B", "1"), ("", "1"), ("A", "\n")]
)
def test_a_header_that_would_forge_another_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not a header"):
        wire.encode_headers({name: value})


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"NATS/1.0 503\r\n\r\n", 503),
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 4\r\n\r\n", 408),
        (b"NATS/1.0\r\nA: 1\r\n\r\n", 0),
        (b"", 0),
    ],
)
def test_status(block: bytes, status: int) -> None:
    assert wire.status_of(block) == status
