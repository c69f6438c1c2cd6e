"""A backup comes back as it was: a copy of the embedded broker's folder, and a snapshot of a stream by JetStream's API,
which is what `nats stream backup` and `nats stream restore` call."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.settings import Settings, load_settings
from infra.stream_set import ensure_streams
from schemas import subjects
from schemas.ids import ModelKey
from schemas.streams import OUTPUT, REQUESTS, consumers_of

WAIT_S = 10.0
CHUNK_BYTES = 64 * 1024
MESSAGES = 200
BODIES = [random.Random(number).randbytes(4096) for number in range(MESSAGES)]
"""Not to be compressed: several chunks."""


def settings_for(directory: Path) -> Settings:
    return load_settings({"store_dir": directory, "broker_port": 0, "broker_monitor_port": 0})


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def make_streams(url: str, settings: Settings) -> None:
    """As a scheduler does at its start; this also checks what is there."""
    bus = await Bus.connect(url, name="backup", fail=_raise)
    js = JetStream(bus)
    await ensure_streams(js, settings)
    for durable in consumers_of(ModelKey("river"), ack_wait_s=10, queue_max=settings.queue_max):
        await js.ensure_consumer(durable)
    await bus.close()


async def publish_some(client: Client) -> None:
    js = client.jetstream()
    for number in range(MESSAGES):
        rid = f"{number:016d}"
        subject = subjects.request("standard", "river", "public", rid)
        await js.publish(subject, BODIES[number], headers={"Nats-Msg-Id": f"public.{rid}"})
        await js.publish(subjects.output_ctl("public", rid), b'{"t": "lease"}')


async def asked(client: Client, subject: str, body: object = None) -> dict[str, Any]:
    """An answer of JetStream's API. Fails with its error."""
    answer: dict[str, Any] = json.loads(
        (await client.request(subject, b"" if body is None else json.dumps(body).encode(), WAIT_S)).data
    )
    assert "error" not in answer, answer
    return answer


async def state_of(client: Client, name: str) -> dict[str, Any]:
    """What a stream holds, with its configuration and consumers."""
    info = await asked(client, subjects.js_stream("INFO", name))
    listed = await asked(client, f"$JS.API.CONSUMER.LIST.{name}", {})
    state = {key: info["state"][key] for key in ("messages", "bytes", "first_seq", "last_seq")}
    durables = sorted(one["name"] for one in listed["consumers"])
    return {"state": state, "config": info["config"], "durables": durables}


async def snapshot(client: Client, name: str) -> tuple[dict[str, Any], list[bytes]]:
    """A stream's configuration and state, and its content in chunks."""
    inbox = client.new_inbox()
    messages = await client.subscribe(inbox)
    request = {"deliver_subject": inbox, "chunk_size": CHUNK_BYTES}
    head = await asked(client, subjects.js_stream("SNAPSHOT", name), request)
    chunks = []
    while (message := await messages.next_msg(WAIT_S)).data:
        chunks.append(message.data)
        if message.reply:  # it sends no more than a window that nobody has acknowledged
            await message.respond(b"")
    await messages.unsubscribe()
    return {"config": head["config"], "state": head["state"]}, chunks


async def restore(client: Client, name: str, head: dict[str, Any], chunks: list[bytes]) -> None:
    opened = await asked(client, subjects.js_stream("RESTORE", name), head)
    for chunk in chunks:
        await client.request(opened["deliver_subject"], chunk, WAIT_S)
    done: Msg = await client.request(opened["deliver_subject"], b"", WAIT_S)
    assert "error" not in json.loads(done.data), done.data


async def test_a_copy_of_the_stopped_brokers_folder_is_the_broker(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "one")
    with Broker(settings) as broker:
        await make_streams(broker.url, settings)
        async with connected(broker.url) as client:
            await publish_some(client)
            before = [await state_of(client, name) for name in (REQUESTS, OUTPUT)]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    copied = settings_for(tmp_path / "two")
    with Broker(copied) as broker:
        async with connected(broker.url) as client:
            assert [await state_of(client, name) for name in (REQUESTS, OUTPUT)] == before
        # A scheduler would start on it.
        await make_streams(broker.url, copied)


async def test_a_snapshot_of_a_stream_is_the_stream(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "one")
    with Broker(settings) as broker:
        await make_streams(broker.url, settings)
        async with connected(broker.url) as client:
            await publish_some(client)
            before = await state_of(client, REQUESTS)
            assert before["state"]["messages"] == MESSAGES
            assert len(before["durables"]) == 3
            head, chunks = await snapshot(client, REQUESTS)
            assert len(chunks) > 2
            await client.publish(subjects.request("standard", "river", "public", "f" * 16), b"{}")
            await asked(client, subjects.js_stream("DELETE", REQUESTS))
            await restore(client, REQUESTS, head, chunks)
            assert await state_of(client, REQUESTS) == before
        await make_streams(broker.url, settings)


async def test_the_restored_durables_deliver(tmp_path: Path) -> None:
    settings, other = settings_for(tmp_path / "one"), settings_for(tmp_path / "two")
    with Broker(settings) as broker:
        await make_streams(broker.url, settings)
        async with connected(broker.url) as client:
            await publish_some(client)
            head, chunks = await snapshot(client, REQUESTS)
    with Broker(other) as broker:
        async with connected(broker.url) as client:
            await restore(client, REQUESTS, head, chunks)
            durable = await client.jetstream().pull_subscribe_bind("standard-river", REQUESTS)
            got = await durable.fetch(MESSAGES, timeout=WAIT_S)
    assert [message.data for message in got] == BODIES


def _raise(error: Exception) -> None:
    raise error
