"""Whatever a client sends as a form, it is read or refused."""

from __future__ import annotations

import asyncio
import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from edge.batches.upload import Upload, read_upload
from edge.errors import Problem
from tests.unit.virtual_time import in_virtual_time

BYTES_MAX = 1000
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
FORM = {
    "type": "http",
    "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
    "method": "POST",
}
_LINES = st.sampled_from(
    [
        b"--b",
        b"--b--",
        b"",
        b'Content-Disposition: form-data; name="file"; filename="f"',
        b'Content-Disposition: form-data; name="file"',
        b'Content-Disposition: form-data; name="purpose"',
        b"Content-Disposition: form-data",
        b"Content-Type: text/plain; charset=nonsense",
        b": no name",
        b"x" * 300,
        bytes(range(128, 256)),
    ]
)
_TYPES = st.sampled_from(
    [
        "multipart/form-data; boundary=b",
        'multipart/form-data; boundary="b"; charset=nonsense',
        "multipart/form-data; boundary=b; charset=UTF-8",
        "multipart/form-data; boundary=",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "b" * 5000,
    ]
)


def read(data: bytes, content_type: str, pieces: int = 3) -> Upload | Problem:
    size = len(data) // pieces + 1
    messages: list[Message] = [
        {"type": "http.request", "body": data[at : at + size], "more_body": True}
        for at in range(0, len(data), size)
    ]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    async def run() -> Upload | Problem:
        scope = {"type": "http", "headers": [(b"content-type", content_type.encode())], "method": "POST"}
        found = await read_upload(Request(scope, receive), bytes_max=BYTES_MAX, idle_s=1)
        if isinstance(found, Upload):
            await found.file.close()
        return found

    return asyncio.run(run())


@settings(max_examples=300)
@given(st.lists(_LINES, max_size=14), _TYPES)
def test_no_form_is_more_than_a_clear_mistake(lines: list[bytes], content_type: str) -> None:
    found = read(b"\r\n".join(lines), content_type)
    if isinstance(found, Upload):
        assert 0 < found.size <= BYTES_MAX
    else:
        assert found.reason in ("bad_request", "too_large")


@pytest.mark.parametrize("end", [b"", b"x" * (BYTES_MAX + (70 << 10)), b"\r\n--b\r\n: no name\r\n\r\n"])
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_form_that_breaks_off_leaves_no_file_open(end: bytes) -> None:
    begun = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{}'
    assert isinstance(read(begun + end, "multipart/form-data; boundary=b"), Problem)
    gc.collect()


def test_a_form_is_read_whatever_the_order_of_its_fields() -> None:
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n'
    purpose = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    for data in (file + purpose, purpose + file):
        found = read(data + b"--b--\r\n", "multipart/form-data; boundary=b")
        assert isinstance(found, Upload)
        assert (found.filename, found.size, found.fields) == ("f", 2, {"purpose": "batch"})


@pytest.mark.parametrize(
    "charset", ["undefined", "raw_unicode_escape", "utf-7", "idna", '"a\0b"', "x" * 1000]
)
def test_no_codec_is_looked_for_by_a_client_s_word(charset: str) -> None:
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="\\ud800+2AA-xn--a"\r\n\r\n{}\r\n--b--\r\n'
    found = read(file, f"multipart/form-data; boundary=b; charset={charset}")
    assert isinstance(found, Problem)
    assert found.reason == "bad_request"


@in_virtual_time
async def test_a_client_that_sends_a_byte_now_and_then_is_not_waited_for() -> None:
    begun = asyncio.get_running_loop().time()
    pieces = iter([HEAD])

    async def receive() -> Message:
        await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - begun < 10, "nobody stops it"
        return {"type": "http.request", "body": next(pieces, b"x"), "more_body": True}

    found = await read_upload(Request(FORM, receive), bytes_max=BYTES_MAX, idle_s=0.3)
    assert isinstance(found, Problem)
    assert found.reason == "body_timeout"


@in_virtual_time
async def test_a_client_that_is_fast_enough_may_take_its_time() -> None:
    sent = 0

    async def receive() -> Message:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0.05)
        pieces = (b"x" * (8 << 10), b"\r\n--b--\r\n")
        head = HEAD if sent == 1 else b""
        return {"type": "http.request", "body": head + pieces[sent > 20], "more_body": sent <= 20}

    found = await read_upload(Request(FORM, receive), bytes_max=1 << 20, idle_s=0.3)
    assert isinstance(found, Upload), "more than `idle_s` in all"
    assert found.size == 20 * (8 << 10)
    await found.file.close()
