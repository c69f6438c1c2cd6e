"""What a nats-server says of itself on its monitoring port."""

from __future__ import annotations

import asyncio
import http.client
import urllib.error

import msgspec

from infra.broker import DIRECTLY

TIMEOUT_S = 1.0


class Varz(msgspec.Struct, frozen=True):
    """Of `/varz`, the numbers that tell how a server does; totals are since its start."""

    server_id: str
    connections: int = 0
    total_connections: int = 0
    subscriptions: int = 0
    slow_consumers: int = 0
    in_msgs: int = 0
    out_msgs: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    mem: int = 0
    cpu: float = 0.0


async def varz(port: int) -> Varz | None:
    """Of the server that is monitored at this port of this machine; None: it does not answer."""
    return await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/varz")


def _read(url: str) -> Varz | None:
    try:
        with DIRECTLY.open(url, timeout=TIMEOUT_S) as answer:
            return msgspec.json.decode(answer.read(), type=Varz)
    except (OSError, http.client.HTTPException, urllib.error.URLError, msgspec.DecodeError):
        return None
