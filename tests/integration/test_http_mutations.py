"""Requests with a few bytes wrong, by the thousand: each is answered or its connection closed, and none is a 5xx."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from edge import server
from edge.access import connection
from infra.broker import Broker
from infra.settings import load_settings
from tests.integration.edge_under_test import MODEL, World, edge_on
from tests.integration.raw_socket import Said, request_bytes, talk

MUTANTS, AT_ONCE = 600, 60
BODY = json.dumps({"model": MODEL}).encode()
"""Lacks what no mutation brings, so that nothing is ever admitted."""

CHUNKS = b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY)
SEEDS = [
    request_bytes("Authorization: Bearer a", "X-Forwarded-For: 1.2.3.4, 5.6.7.8", body=BODY),
    request_bytes("Transfer-Encoding: chunked", "Trailer: X", body=CHUNKS, length=False),
    request_bytes("Connection: Upgrade", "Upgrade: h2c", body=BODY),
    request_bytes("Expect: 100-continue", body=BODY),
    request_bytes(line=f"GET /v1/requests/{'a' * 20}/stream?starting_after=1"),
    request_bytes(line="GET /v1/models"),
]
PIECES = [
    *(b"\r\n", b"\n", b"\0", b"\xff", b":", b" ", b"\t", b"%", b"-1", b"\r\n\r\n", b"0\r\n\r\n"),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    ),
    b"a" * 5000,
]


def mutant(rng: random.Random) -> bytes:
    raw = bytearray(b"".join(rng.choices(SEEDS, k=rng.choice((1, 1, 2)))))
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(raw))
        match rng.randrange(3):
            case 0:
                raw[at:at] = rng.choice(PIECES)
            case 1:
                raw[at] = rng.randrange(256)
            case _:
                del raw[at : at + rng.randint(1, 30)]
    return bytes(raw)


async def send(world: World, raw: bytes, cut: int) -> Said:
    return await talk(world.port, raw[:cut], raw[cut:], answers=100, within_s=30, pause_s=0.001)


@pytest.mark.parametrize("seed", range(3))
async def test_no_mutant_gets_a_5xx_or_waits_for_ever(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connection, "UNREAD_S", 0.5)
    rng = random.Random(seed)
    settings = load_settings({"nats_url": broker.url, "body_timeout_s": 0.3, "header_bytes_max": 4096})
    statuses: set[int] = set()
    async with edge_on(settings) as world:
        for _ in range(MUTANTS // AT_ONCE):
            raws = [mutant(rng) for _ in range(AT_ONCE)]
            said = await asyncio.gather(*(send(world, raw, rng.randrange(len(raw))) for raw in raws))
            for raw, one in zip(raws, said, strict=True):
                assert one.closed, raw
                assert not [status for status in one.statuses if status >= 500], raw
                statuses.update(one.statuses)
        assert world.backend.arrivals == 0
    assert statuses >= {200, 400, 404, 408, 431}, "mutants of all kinds were among them"
