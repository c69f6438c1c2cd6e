"""A host of images on a loopback address, with all the faults that hosts on the Internet have."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("images_test.pem")
"""Of `images.test`, signed by itself, with its key."""


class PictureHost:
    """`answers` are whole responses by path; a path that is missing is answered with silence. `/drip` never ends."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.connections = 0
        self.open: set[asyncio.Task[None]] = set()
        self.names: list[str | None] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        task = asyncio.current_task()
        assert task is not None
        self.open.add(task)
        task.add_done_callback(self.open.discard)
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            path = head.split(" ")[1]
            if path == "/drip":
                writer.write(response(b"\x89PNG\r\n\x1a\n", length=1000))
                while not reader.at_eof():
                    writer.write(b"\0")
                    await writer.drain()
                    await asyncio.sleep(0.02)
            elif path in self.answers:
                writer.write(self.answers[path])
                await writer.drain()
            else:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def response(
    body: bytes, *headers: str, status: str = "200 OK", kind: str = "image/png", length: int | None = None
) -> bytes:
    """Bytes of a response; a negative `length` says none."""
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers]
    lines += [f"Content-Length: {length}"] if length >= 0 else []
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.asynccontextmanager
async def picture_host(*, tls: bool = False) -> AsyncIterator[PictureHost]:
    """One that listens on 127.0.0.1."""
    host = PictureHost()
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        context.sni_callback = lambda _socket, name, _context: host.names.append(name)
    server = await asyncio.start_server(host.answer, "127.0.0.1", 0, ssl=context)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
        if host.open:
            _, left = await asyncio.wait(host.open, timeout=30)
            assert not left, "its clients close their connections"


def is_loopback(address: str) -> bool:
    """What tests allow in place of public addresses."""
    return address == "127.0.0.1"


def resolver(*addresses: str) -> Callable[[str, int], list[str]]:
    """Says that every name has these addresses."""
    return lambda _name, _port: list(addresses)
