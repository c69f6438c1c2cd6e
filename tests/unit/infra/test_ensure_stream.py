"""Making a stream: which refusals pass, and which do not."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from infra.bus import Bus, Reply
from infra.jetstream import JetStream
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.streams import requests_stream

SPEC = requests_stream(queue_max=10, queue_bytes_max=1 << 20)
NOT_FOUND = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}
FOUND = {"config": SPEC.config}
NO_STORAGE = {
    "error": {"code": 500, "err_code": 10047, "description": "insufficient storage resources available"}
}


class Answering:
    """A bus whose broker gives these answers to questions for a stream, in order, and this one to making it."""

    def __init__(self, infos: list[dict[str, Any]], made: dict[str, Any]) -> None:
        self._infos, self._made = infos, made

    async def request(self, subject: str, _payload: bytes = b"", **_: Any) -> Reply:
        is_info = subject == subjects.js_stream("INFO", SPEC.name)
        return Reply(b"", json.dumps(self._infos.pop(0) if is_info else self._made).encode())


def jetstream(infos: list[dict[str, Any]], made: dict[str, Any]) -> JetStream:
    return JetStream(cast("Bus", Answering(infos, made)))


async def test_storage_that_somebody_else_has_just_taken_for_the_same_stream_is_no_lack() -> None:
    await jetstream([NOT_FOUND, FOUND, FOUND], NO_STORAGE).ensure_stream(SPEC)


async def test_a_lack_of_storage_is_said() -> None:
    with pytest.raises(BrokerRefused, match="insufficient storage"):
        await jetstream([NOT_FOUND, NOT_FOUND], NO_STORAGE).ensure_stream(SPEC)


async def test_a_cluster_whose_nodes_have_not_found_each_other_is_away() -> None:
    description = "no suitable peers for placement, peer offline"
    made = {"error": {"code": 400, "err_code": 10005, "description": description}}
    with pytest.raises(BrokerAway, match="peer offline"):
        await jetstream([NOT_FOUND], made).ensure_stream(SPEC)


async def test_a_cluster_without_a_leader_is_away() -> None:
    description = "JetStream system temporarily unavailable"
    unavailable = {"error": {"code": 503, "err_code": 10008, "description": description}}
    with pytest.raises(BrokerAway, match="temporarily unavailable"):
        await jetstream([unavailable], unavailable).ensure_stream(SPEC)
    with pytest.raises(BrokerAway, match="nobody leads"):
        await jetstream([], unavailable).last(SPEC.name, "a.subject")


async def test_a_cluster_without_room_is_no_matter_of_time() -> None:
    description = "no suitable peers for placement, insufficient storage"
    made = {"error": {"code": 400, "err_code": 10005, "description": description}}
    with pytest.raises(BrokerRefused, match="insufficient storage"):
        await jetstream([NOT_FOUND, NOT_FOUND], made).ensure_stream(SPEC)
