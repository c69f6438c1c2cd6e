"""Dead letters on a real broker: found, sent again, dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.broker import Broker
from infra.bus import Bus
from infra.dead_letters import WINDOW, DeadLetterError, DeadLetters
from infra.jetstream import JetStream, expect_headers
from infra.settings import load_settings
from infra.wire import parse_headers
from schemas import subjects
from schemas.dead import DEAD_LETTER, DeadLetter, Tried, encode_dead_letter
from schemas.output import Failed, Lease
from schemas.requests import MSG_ID, RequestMeta, View, meta_headers, parse_meta
from schemas.streams import DEAD, REQUESTS, dead_stream, requests_stream

TENANT = "public"
META = RequestMeta(
    max_tokens=7, grace_s=0.0, edge="gone", view=View(model="Größe", created=1), fingerprint="f"
)
QUEUE_MAX = 2


class Dead:
    """Letters as a worker writes them, and what `penstock dead` does about them."""

    def __init__(self, js: JetStream) -> None:
        self.js = js
        self.letters = DeadLetters(js)

    async def bury(self, rid: str, body: bytes = b"{}") -> int:
        """The letter's sequence."""
        history = [Tried(5, Lease("n", "w1", 1, "first")), Tried(6, Failed("n", "RuntimeError: x"))]
        origin = subjects.request("batch", "m", TENANT, rid)
        letter = DeadLetter(origin, "poison", "it brings the engine down", 3, history)
        headers = {**meta_headers(META), DEAD_LETTER: encode_dead_letter(letter)}
        ack = await self.js.publish(subjects.dead("m", TENANT, rid), body, headers=expect_headers(0, headers))
        assert ack.stored, ack
        return ack.seq

    async def rids(self, limit: int = 100) -> list[str]:
        return [letter.rid for letter in await self.letters.newest(limit)]


@pytest.fixture
async def dead(tmp_path: Path) -> AsyncIterator[Dead]:
    settings = load_settings({"store_dir": tmp_path, "broker_port": 0, "broker_monitor_port": 0})
    with Broker(settings) as broker:
        failures: list[Exception] = []
        bus = await Bus.connect(broker.url, name="test", fail=failures.append)
        js = JetStream(bus)
        await js.ensure_stream(dead_stream(dead_bytes_max=64 << 20, dead_ttl_s=3600))
        await js.ensure_stream(requests_stream(queue_max=QUEUE_MAX, queue_bytes_max=1 << 20))
        yield Dead(js)
        await bus.close()
        assert not failures


def rid(i: int) -> str:
    return f"r{i:025d}"


async def test_the_newest_come_first_however_many_were_dropped(dead: Dead) -> None:
    assert await dead.rids() == []
    count = 2 * WINDOW + 5
    for i in range(count):
        await dead.bury(rid(i))
    assert await dead.rids(3) == [rid(count - 1), rid(count - 2), rid(count - 3)]
    for i in range(2, count - 1):
        await dead.letters.drop(await dead.letters.find(rid(i)))
    assert await dead.rids() == [rid(count - 1), rid(1), rid(0)]


async def test_a_letter_tells_all_that_was_known(dead: Dead) -> None:
    await dead.bury(rid(1), b'{"prompt": "\xff"}')
    letter = await dead.letters.find(rid(1))
    assert letter.origin == ("batch", "m", TENANT, rid(1))
    assert (letter.meta, letter.body) == (META, b'{"prompt": "\xff"}')
    assert (letter.told.reason, letter.told.tokens, len(letter.told.history)) == ("poison", 3, 2)
    assert letter.when.tzinfo is not None


async def test_a_second_letter_of_a_request_is_refused(dead: Dead) -> None:
    seq = await dead.bury(rid(1))
    again = await dead.js.publish(subjects.dead("m", TENANT, rid(1)), b"{}", headers=expect_headers(0))
    assert (again.err_code, again.last_seq) == (10071, seq)


@pytest.mark.parametrize("name", [rid(9), "*", "no-rid"])
async def test_what_is_not_there_is_said_to_be_not_there(dead: Dead, name: str) -> None:
    await dead.bury(rid(1))
    with pytest.raises(DeadLetterError):
        await dead.letters.find(name)


async def test_redrive_makes_a_new_request_of_the_same_words(dead: Dead) -> None:
    await dead.bury(rid(1), b'{"prompt": "\xff"}')
    new = await dead.letters.redrive(await dead.letters.find(rid(1)), keep=False)
    stored = await dead.js.last(REQUESTS, subjects.request_of_any_model(TENANT, new))
    assert stored is not None
    assert stored.subject == subjects.request("batch", "m", TENANT, new)
    assert stored.payload == b'{"prompt": "\xff"}'
    headers = parse_headers(stored.headers)
    assert DEAD_LETTER not in headers
    assert headers[MSG_ID] == f"{TENANT}.{new}"
    meta = parse_meta(headers)
    assert isinstance(meta, RequestMeta)
    assert (meta.max_tokens, meta.view, meta.fingerprint) == (7, META.view, "f")
    assert (meta.grace_s, meta.edge) == (None, ""), "whoever asked is gone: nobody's leaving may cancel it"
    assert await dead.rids() == []


async def test_redrive_may_keep_the_letter(dead: Dead) -> None:
    await dead.bury(rid(1))
    await dead.letters.redrive(await dead.letters.find(rid(1)), keep=True)
    assert await dead.rids() == [rid(1)]


async def test_a_full_queue_is_said_to_be_full_and_the_letter_stays(dead: Dead) -> None:
    await dead.bury(rid(1))
    letter = await dead.letters.find(rid(1))
    for _ in range(QUEUE_MAX):
        await dead.letters.redrive(letter, keep=True)
    with pytest.raises(DeadLetterError, match="is full, nothing was sent"):
        await dead.letters.redrive(letter, keep=False)
    assert await dead.rids() == [rid(1)]
    assert await dead.js.queue_depth(DEAD) == 1
