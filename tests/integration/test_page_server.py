"""The port on which a process shows its own metrics: hostile and broken clients, taken ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from infra.metrics import server as server_module
from infra.metrics.page import Page
from infra.metrics.server import HEAD_BYTES_MAX, PageServer
from infra.metrics.tables import Table

HOST = "127.0.0.1"


@pytest.fixture
async def server(free_port: int) -> AsyncIterator[PageServer]:
    server = PageServer(Page("test", Table("test"), lambda: True))
    await server.start(HOST, free_port)
    yield server
    server.close()


async def raw(port: int, data: bytes) -> bytes:
    """What is answered until the connection ends."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_the_page(server: PageServer) -> None:
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{server.port}") as http:
        page = await http.get("/metrics?name=x")
        assert page.status_code == 200
        assert "penstock_build_info" in page.text
        head = await http.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        opened = await http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        assert opened.text.endswith("# EOF\n")
        assert (await http.get("/")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405


async def test_the_next_free_port_is_taken(server: PageServer) -> None:
    second = PageServer(Page("test", Table("test"), lambda: True))
    await second.start(HOST, server.port)
    assert server.port < second.port < server.port + server_module.PORTS_TRIED
    second.close()


async def test_no_free_port_is_an_error(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PORTS_TRIED", 1)
    with pytest.raises(OSError, match="no port is free"):
        await PageServer(Page("test", Table("test"), lambda: True)).start(HOST, server.port)


@pytest.mark.parametrize(
    "data", [b"GET /metrics HTTP/1.1\r\n" + b"x" * 2 * HEAD_BYTES_MAX, b"", b"\xff\r\n\r\n"]
)
async def test_a_broken_client_hurts_nobody(
    server: PageServer, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hasty:
        hasty.setattr(server_module, "PATIENCE_S", 0.1)
        assert b"200 OK" not in await raw(server.port, data)
    assert b"200 OK" in await raw(server.port, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_connections_are_bounded(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 2)
    idle = [await asyncio.open_connection(HOST, server.port) for _ in range(2)]
    deadline = asyncio.get_running_loop().time() + 5
    while server._open < 2:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)
    assert await raw(server.port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
    for _, writer in idle:
        writer.close()
