"""Bytes in, bytes out: clients that no library would be."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Said:
    """What a server said to some bytes. `closed`: it closed the connection, after `took_s`."""

    raw: bytes
    closed: bool
    took_s: float

    @property
    def status(self) -> int:
        """Of the first answer; 0 for none."""
        return int(self.raw.split(b" ", 2)[1]) if self.raw.startswith(b"HTTP/") else 0

    @property
    def statuses(self) -> list[int]:
        """Of all answers."""
        return [int(part.split(b" ", 1)[0]) for part in self.raw.split(b"HTTP/1.1 ")[1:]]

    @property
    def headers(self) -> dict[str, str]:
        """Of the first answer."""
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the first answer."""
        body = self.raw.partition(b"\r\n\r\n")[2]
        error: dict[str, Any] = json.JSONDecoder().raw_decode(body.decode())[0]["error"]
        return error


def request_bytes(
    *headers: str | bytes, body: bytes = b"", line: str = "POST /v1/chat/completions", length: bool = True
) -> bytes:
    """A request, right or wrong."""
    told = [header.encode() if isinstance(header, str) else header for header in headers]
    if length:
        told.append(b"Content-Length: %d" % len(body))
    lines = [f"{line} HTTP/1.1".encode(), b"Host: x", *told, b"", body]
    return b"\r\n".join(lines)


async def talk(
    port: int, *pieces: bytes, answers: int = 1, within_s: float = 10.0, pause_s: float = 0.02
) -> Said:
    """Sends the pieces, and reads until there are `answers` whole ones or the server closes. It reads what comes while
    it sends: after a write to a server that has closed nothing more can be read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun, raw = time.monotonic(), b""

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(within_s):
            while _whole(raw) < answers:
                data = await reader.read(65536)
                if not data:
                    return Said(raw, True, time.monotonic() - begun)
                raw += data
        return Said(raw, False, time.monotonic() - begun)
    except ConnectionError:
        return Said(raw, True, time.monotonic() - begun)
    finally:
        sending.cancel()
        writer.close()


def _whole(raw: bytes) -> int:
    """How many answers of a told length are there."""
    count = 0
    while b"\r\n\r\n" in raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        lengths = [
            line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        ]
        length = int(lengths[0]) if lengths else 0
        if len(rest) < length:
            break
        raw = rest[length:]
        count += not head.startswith(b"HTTP/1.1 100")
    return count
