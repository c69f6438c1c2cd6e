"""A cluster without a leader: what it cannot say now is unknown, not refused."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from infra.bus import Bus, Reply
from infra.jetstream import JetStream
from schemas import subjects
from schemas.errors import BrokerAway
from schemas.streams import OUTPUT

UNAVAILABLE = {
    "error": {"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"}
}
CTL = subjects.output_ctl("public", "r" * 20)


class Leaderless:
    """A bus whose broker answers this to everything."""

    async def request(self, _subject: str, _payload: bytes = b"", **_: Any) -> Reply:
        return Reply(b"", json.dumps(UNAVAILABLE).encode())


@pytest.mark.parametrize("ask", [
    lambda js: js.last(OUTPUT, CTL), lambda js: js.queue_depth(OUTPUT), lambda js: js.delete(OUTPUT, 1),
])  # fmt: skip
async def test_it_is_away_until_it_has_one(ask: Callable[[JetStream], Awaitable[object]]) -> None:
    """An edge that took it for a refusal answered a 500 in plain text while a stream's leader was being elected."""
    with pytest.raises(BrokerAway):
        await ask(JetStream(cast("Bus", Leaderless())))
