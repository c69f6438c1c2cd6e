"""What an edge does that is full, or that stops: nobody's request is lost with it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from edge.server import Server, listen
from infra.broker import Broker
from infra.settings import load_settings
from schemas.output import End
from tests.integration.edge_under_test import CHAT, STREAMED, World, backend_on, edge_at, edge_on, post, until


@pytest.fixture
async def worlds(broker: Broker) -> AsyncIterator[tuple[World, World]]:
    settings = load_settings({"nats_url": broker.url, "edge_interval_s": 0.1})
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend, "edge-a") as first,
        edge_at(settings, backend, "edge-b") as second,
    ):
        yield first, second


async def passed_on(world: World) -> None:
    """Some text has gone to some client, so that what follows is no status any more."""
    await until(lambda: any(answer._offset for answer in world.edge._desk.audience.answers))


async def test_an_edge_has_room_for_so_many(broker: Broker) -> None:
    async with edge_on(load_settings({"nats_url": broker.url, "edge_answers_max": 2})) as world:
        clients = [post(world), post(world)]
        attempts = [await world.backend.attempt() for _ in clients]
        async with world.http as http:
            for refused in (
                await http.post(CHAT, json=STREAMED),
                await http.get(f"/v1/requests/{attempts[0].rid}/stream"),
            ):
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "edge_full")
                assert refused.headers["retry-after"] == "1"
            shown = await http.get(f"/v1/requests/{attempts[0].rid}")
            assert shown.json()["status"] == "running", "a look keeps nothing open"
        assert world.backend.arrivals == 2
        await attempts[0].end(End(status="ok", n=0))
        await clients[0]
        third = post(world)
        attempts[0] = await world.backend.attempt()
        for attempt in attempts:
            await attempt.end(End(status="ok", n=0))
        await asyncio.gather(*clients, third)


async def test_who_is_connected_already_when_an_edge_closes_is_answered(broker: Broker) -> None:
    """The kernel gives connections to each of several edges of a port, and resets what an edge has not taken then."""
    async with edge_on(load_settings({"nats_url": broker.url})) as world:
        server, listener = Server(world.edge, linger_s=2, shutdown_timeout_s=5), listen("127.0.0.1", 0)
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([listener])
        # From here to its end the event loop gets no turn in which it could take them.
        clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: penstock\r\n\r\n")
        gone = socket.create_connection(listener.getsockname())
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        await server.shutdown([listener])
        for client in clients:
            with client:
                answer = client.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer.lower()


async def test_a_stopping_edge_takes_nothing_new_in_the_end(worlds: tuple[World, World]) -> None:
    client = post(worlds[0])
    attempt = await worlds[0].backend.attempt()
    worlds[0].edge.drain()
    async with worlds[0].http as http:
        assert (await http.get("/readyz")).status_code == 503
        late = post(worlds[0])
        await (await worlds[0].backend.attempt()).end(End(status="ok", n=0))
        assert (await late).status_code == 200, "it may have been sent before anybody could know"
        await attempt.tok("some")
        await passed_on(worlds[0])
        worlds[0].edge.cut_off()
        assert '"code":"draining"' in (await client).text
        for refused in (
            await http.post(CHAT, json=STREAMED),
            await http.get(f"/v1/requests/{attempt.rid}/stream"),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert "request_id" not in refused.json()["error"], "there is no such request"
        assert (await http.get(f"/v1/requests/{attempt.rid}")).json()["status"] == "running"
    await attempt.end(End(status="ok", n=1))


async def test_who_is_sent_away_goes_on_elsewhere(worlds: tuple[World, World]) -> None:
    one, two = worlds
    client, whole = post(one), post(one, stream=False)
    attempts = [await one.backend.attempt() for _ in range(2)]
    if attempts[0].meta.stream is False:
        attempts.reverse()
    await attempts[0].tok("a")
    await passed_on(one)
    one.edge.drain()
    one.edge.cut_off()
    text = (await client).text
    events, _, frame = text.partition('data: {"error"')
    error = json.loads('{"error"' + frame.split("\n")[0])["error"]
    assert (error["code"], error["request_id"]) == ("draining", attempts[0].rid)
    last_id = events.rsplit("id: ", 1)[1].split("\n")[0]
    async with two.http as http:
        going_on = asyncio.create_task(http.get(error["resume"], headers={"last-event-id": last_id}))
        await attempts[0].tok("b")
        await attempts[0].end(End(status="ok", n=2))
        rest = (await going_on).text
        assert events + rest == (await http.get(error["resume"])).text
        refused = (await whole).json()["error"]
        assert (refused["code"], refused["resume"]) == ("draining", f"/v1/requests/{attempts[1].rid}")
        await attempts[1].end(End(status="ok", n=0))
        assert (await http.get(refused["resume"])).json()["status"] == "completed"
    assert attempts[0].rid not in one.backend.hints
