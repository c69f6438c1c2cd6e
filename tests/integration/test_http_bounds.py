"""Slow, huge and broken clients: a clear 4xx or a closed connection, in bounded time, and never a 5xx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from edge.access import connection
from edge.access.connection import CONNECTIONS_SPARE
from infra.broker import Broker
from infra.settings import Settings, load_settings
from tests.integration.edge_under_test import MESSAGES, MODEL, World, edge_on
from tests.integration.raw_socket import request_bytes, talk

HEADER_BYTES_MAX = 4096
BODY_BYTES_MAX = 100_000
TIMEOUT_S = 15.0
"""Whatever ends sooner was not waited for."""

HASTY_S = 1.0
"""The same, where it is waited for."""

CHUNKED = "Transfer-Encoding: chunked"
INCOMPLETE = json.dumps({"model": MODEL}).encode()


def settings(broker: Broker, body_timeout_s: float) -> Settings:
    return load_settings(
        {
            "nats_url": broker.url,
            "body_timeout_s": body_timeout_s,
            "header_bytes_max": HEADER_BYTES_MAX,
            "request_bytes_max": BODY_BYTES_MAX,
            "connections_max": 8,
        }
    )


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    async with edge_on(settings(broker, TIMEOUT_S)) as world:
        yield world


@pytest.fixture
async def hasty(broker: Broker) -> AsyncIterator[World]:
    async with edge_on(settings(broker, HASTY_S)) as world:
        yield world


BROKEN = {
    "a length beside chunks": request_bytes(CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n"),
    "two equal lengths": request_bytes("Content-Length: 2", body=b"{}"),
    "two lengths": request_bytes("Content-Length: 7", body=b"{}"),
    "a negative length": request_bytes("Content-Length: -1", length=False),
    "a signed length": request_bytes("Content-Length: +2", body=b"{}", length=False),
    "a length of hex digits": request_bytes("Content-Length: 0x2", body=b"{}", length=False),
    "a length past any number": request_bytes(f"Content-Length: {'9' * 30}", length=False),
    "chunks that are not last": request_bytes(
        "Transfer-Encoding: chunked, gzip", body=b"2\r\n{}\r\n0\r\n\r\n", length=False
    ),
    "chunks twice": request_bytes(CHUNKED, CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n", length=False),
    "an unknown encoding": request_bytes(
        "Transfer-Encoding: xchunked", body=b"2\r\n{}\r\n0\r\n\r\n", length=False
    ),
    "a chunk without a size": request_bytes(CHUNKED, body=b"zz\r\n{}\r\n0\r\n\r\n", length=False),
    "a chunk past any number": request_bytes(CHUNKED, body=b"f" * 17 + b"\r\n{}\r\n", length=False),
    "a NUL in a value": request_bytes(b"X: a\0b"),
    "a NUL in a name": request_bytes(b"X\0: ab"),
    "a NUL in the path": request_bytes(line="GET /\0"),
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "a control character": request_bytes(b"X: a\x01b"),
    "a folded header": request_bytes("X: a\r\n b"),
    "a space before the colon": request_bytes("X : a"),
    "no colon": request_bytes("X"),
    "no name": request_bytes(": a"),
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP of the future": b"GET /livez HTTP/3.7\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
    "no method": b"BREW /pot HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_not_http_is_400_and_closed(world: World, name: str) -> None:
    said = await talk(world.port, BROKEN[name], answers=2)
    assert (said.status, said.closed) == (400, True)
    assert said.error["type"] == "invalid_request_error"
    assert said.took_s < TIMEOUT_S


ODD = {
    "bytes in values": request_bytes(
        b"X-Request-Id: \xff\xfe",
        b"Idempotency-Key: \xff",
        b"X-Penstock-Class: \xff",
        b"Authorization: Bearer \xff",
        b"Last-Event-Id: \xff",
        body=INCOMPLETE,
    ),
    "headers twice": request_bytes(
        "Content-Type: a/b", "Content-Type: c/d", "Accept: x", "Accept: y", body=INCOMPLETE
    ),
    "an unknown expectation": request_bytes("Expect: 200-maybe", body=INCOMPLETE),
    "no length": request_bytes(length=False),
    "NUL in a rid": request_bytes(line="GET /v1/requests/%00"),
    "bytes in a place": request_bytes(line="GET /v1/requests/%ff%fe/stream?starting_after=%00%ff"),
    "every server": request_bytes(line="OPTIONS *"),
    "an unknown path": request_bytes(line="GET //v1/../etc/passwd"),
    "the wrong method": request_bytes(line="DELETE /v1/chat/completions"),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_is_odd_gets_a_clear_4xx(world: World, name: str) -> None:
    said = await talk(world.port, ODD[name])
    assert 400 <= said.status < 500
    assert said.error["message"]


async def test_a_head_that_drips_is_408_and_one_that_never_begins_is_closed(hasty: World) -> None:
    async def drip() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        raw = b""
        async with asyncio.timeout(15):
            while not raw:
                writer.write(b"X: a\r\n")
                try:
                    async with asyncio.timeout(0.05):
                        raw = await reader.read(100)
                except TimeoutError:
                    continue
        assert raw.startswith(b"HTTP/1.1 408 ")
        writer.close()

    nothing = await talk(hasty.port, b"")
    lines = await talk(hasty.port, *[b"\r\n"] * int(20 * HASTY_S / 0.05), pause_s=0.05)
    assert [(said.raw, said.closed) for said in (nothing, lines)] == [(b"", True)] * 2
    assert HASTY_S * 0.9 < nothing.took_s < 4 * HASTY_S
    await drip()


async def test_a_second_head_on_a_connection_has_its_time_too(hasty: World) -> None:
    said = await talk(hasty.port, request_bytes(line="GET /livez"), b"GET /livez", answers=3)
    assert said.statuses == [200, 408]
    assert said.closed


async def test_a_body_that_does_not_come_is_408_and_closed(hasty: World) -> None:
    said = await talk(hasty.port, request_bytes("Content-Length: 100", body=b"{", length=False), answers=2)
    assert (said.status, said.closed) == (408, True)
    assert said.error["code"] == "body_timeout"
    assert said.headers["connection"] == "close"
    chunked = await talk(hasty.port, request_bytes(CHUNKED, body=b"1\r\n{\r\n", length=False), answers=2)
    assert (chunked.status, chunked.closed) == (408, True)


@pytest.mark.parametrize(
    "pieces",
    [
        [request_bytes("X: " + "a" * HEADER_BYTES_MAX)],
        [request_bytes(*[f"X{number}: a" for number in range(HEADER_BYTES_MAX // 8)])],
        [request_bytes(line="GET /" + "a" * HEADER_BYTES_MAX)],
        [b"GET /livez HTTP/1.1\r\nX: ", b"a" * HEADER_BYTES_MAX, b"a"],
    ],
)
async def test_large_heads_are_431(world: World, pieces: list[bytes]) -> None:
    said = await talk(world.port, *pieces, answers=2)
    assert (said.status, said.closed) == (431, True)
    assert said.error["code"] == "headers_too_large"


async def test_a_head_of_just_the_limit_is_taken(world: World) -> None:
    rest = HEADER_BYTES_MAX - len("/livez" + "Host: x\r\n" + "Content-Length: 0\r\n" + "X: \r\n")
    for pieces in ([0], [0, 1000, 1000, 1000]):
        raw = request_bytes("X: " + "a" * rest, line="GET /livez")
        cuts = [*pieces[1:], len(raw)]
        parts = []
        for cut in cuts:
            parts.append(raw[:cut])
            raw = raw[cut:]
        assert (await talk(world.port, *parts)).status == 200
    assert (await talk(world.port, request_bytes("X: " + "a" * (rest + 1), line="GET /livez"))).status == 431


async def test_a_body_over_the_limit_is_413_and_the_connection_goes_on(world: World) -> None:
    large = b"a" * (BODY_BYTES_MAX + 1)
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)
    for request in (request_bytes(body=large), request_bytes(CHUNKED, body=chunk, length=False)):
        said = await talk(world.port, request + request_bytes(line="GET /livez"), answers=2)
        assert said.statuses == [413, 200]


async def test_the_rest_of_a_refused_body_is_not_waited_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread_s = connection.UNREAD_S
    monkeypatch.setattr(connection, "UNREAD_S", unread_s / 10)
    head = request_bytes("Content-Length: 9999999999999", body=b"a", length=False)
    said = await talk(world.port, head, *[b"a"] * 3, answers=2, pause_s=0.05)
    assert (said.status, said.closed) == (413, True)
    assert said.took_s < unread_s


@pytest.mark.parametrize("endless", [b"2;", b"2\r\n{}\r\n0\r\nX: "])
async def test_what_surrounds_a_body_is_bounded_too(world: World, endless: bytes) -> None:
    """Extensions of a chunk, and trailers."""
    head = request_bytes(CHUNKED, body=endless, length=False)
    said = await talk(world.port, head, *[b"a" * HEADER_BYTES_MAX] * 4, answers=2)
    assert said.closed
    assert said.status in (0, 400), "a closed connection may take the answer with it"
    assert said.took_s < TIMEOUT_S


async def test_trailers_are_no_headers(world: World) -> None:
    raw = json.dumps({"model": MODEL, "messages": MESSAGES}).encode()
    chunks = b"%x\r\n%b\r\n0\r\nX-Penstock-Class: nonsense\r\n\r\n" % (len(raw), raw)

    head = request_bytes(CHUNKED, "X-Penstock-On-Disconnect: detach", body=chunks, length=False)
    talking = asyncio.create_task(talk(world.port, head, within_s=60))
    # A header of this value is a 400, and nothing is published.
    attempt = await world.backend.attempt(lease=False)
    await attempt.settle()
    assert not talking.done()
    talking.cancel()


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
async def test_an_offer_of_another_protocol_is_declined_and_its_body_read(world: World, offer: str) -> None:
    request = request_bytes("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offer}", body=INCOMPLETE)
    for pieces in ([request], [request[:-5], request[-5:]]):
        said = await talk(world.port, *pieces)
        assert said.status == 400
        assert said.error["param"] == "messages", "the body was read"


async def test_many_requests_at_once_on_one_connection_are_answered_in_order(world: World) -> None:
    said = await talk(
        world.port,
        request_bytes(line="GET /livez") + request_bytes(body=INCOMPLETE) + request_bytes(line="GET /livez"),
        answers=3,
    )
    assert said.statuses == [200, 400, 200]
    broken = await talk(world.port, request_bytes(line="GET /livez"), b"garbage\r\n\r\n", answers=3)
    assert broken.statuses == [200, 400]
    assert broken.closed


async def test_one_connection_too_many_is_told_so(world: World) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(8)]
    said = await talk(world.port, request_bytes(line="GET /livez"), answers=2)
    assert (said.status, said.closed) == (503, True)
    assert said.error["code"] == "edge_full"
    assert int(said.headers["retry-after"]) > 0
    for _, writer in idle:
        writer.close()
    async with asyncio.timeout(15):
        while (await talk(world.port, request_bytes(line="GET /livez"))).status != 200:
            await asyncio.sleep(0.01)


async def test_far_too_many_connections_are_closed_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CONNECTIONS_SPARE > 0
    monkeypatch.setattr(connection, "CONNECTIONS_SPARE", 0)
    idle = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(8)]
    said = await talk(world.port, b"")
    assert (said.raw, said.closed) == (b"", True)
    assert said.took_s < TIMEOUT_S
    for _, writer in idle:
        writer.close()
