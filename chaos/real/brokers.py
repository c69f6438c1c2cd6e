"""The brokers of the system under test as child processes: one nats-server, or three whose routes go through links."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx

from chaos.real.members import Running, start
from chaos.real.proxy import Link
from infra.broker import broker_config, find_nats_server
from infra.ports import free_port
from infra.settings import Settings

CLUSTER = "penstock"
NOWHERE = "127.0.0.1:1"
"""What a node says where its routes are. Nodes tell each other, and would dial past the links; nobody listens there."""

HEALTH_POLL_S = 0.05
HEALTH_TIMEOUT_S = 1.0


class Node(NamedTuple):
    """One nats-server: the ports it keeps over its restarts, and its directory."""

    name: str
    client: tuple[str, int]
    monitor_url: str
    directory: Path

    @property
    def url(self) -> str:
        """For who does not go through a link."""
        return f"nats://{self.client[0]}:{self.client[1]}"


class Routes(NamedTuple):
    """Who a node dials, and where it listens for others."""

    port: int
    dials: list[int]


def plan_nodes(count: int, directory: Path) -> list[Node]:
    """`broker-1` and so on, on free ports of 127.0.0.1."""
    return [
        Node(
            f"broker-{number}",
            ("127.0.0.1", free_port()),
            f"http://127.0.0.1:{free_port()}",
            directory / f"broker-{number}",
        )
        for number in range(1, count + 1)
    ]


def plan_routes(
    nodes: list[Node], rng: random.Random
) -> tuple[dict[tuple[str, str], Link], dict[str, Routes]]:
    """A link for each direction in which a node dials another; and by node what goes into its config."""
    ports = {node.name: free_port() for node in nodes}
    links = {
        (dialler.name, other.name): Link(
            f"{dialler.name}>{other.name}", ("127.0.0.1", ports[other.name]), rng
        )
        for dialler in nodes
        for other in nodes
        if dialler is not other
    }
    dials: dict[str, list[int]] = {node.name: [] for node in nodes}
    for (dialler, _), link in links.items():
        dials[dialler].append(link.port)
    return links, {name: Routes(ports[name], dials[name]) for name in ports}


def write_config(node: Node, settings: Settings, routes: Routes | None) -> Path:
    """The config file of a node, as the embedded broker's is but for its routes."""
    monitor_port = int(node.monitor_url.rpartition(":")[2])
    config = json.loads(broker_config(settings, node.client[1], monitor_port, node.directory))
    config["server_name"] = node.name
    if routes is not None:
        config["cluster"] = {
            "name": CLUSTER,
            "listen": f"127.0.0.1:{routes.port}",
            "cluster_advertise": NOWHERE,
            "routes": [f"nats://127.0.0.1:{port}" for port in routes.dials],
            # Else clients learn the other nodes' addresses, and go past their links.
            "no_advertise": True,
        }
    node.directory.mkdir(parents=True, exist_ok=True)
    path = node.directory.with_suffix(".conf")
    path.write_text(json.dumps(config, indent=2) + "\n")
    return path


class NodeLaunch:
    """Starts a node, again and again on the same store."""

    def __init__(self, node: Node, config: Path, log_path: Path, http: httpx.AsyncClient) -> None:
        self._node = node
        self._command = [find_nats_server(), "--config", str(config)]
        self._log_path = log_path
        self._http = http

    async def __call__(self) -> Running:
        process = await start(self._command, self._log_path, directory=self._node.directory.parent)
        return _Nats(process, self._node, self._http)


async def is_healthy(http: httpx.AsyncClient, monitor_url: str) -> bool:
    """Whether a node takes clients, and has recovered its streams and found its peers."""
    try:
        answer = await http.get(f"{monitor_url}/healthz", timeout=HEALTH_TIMEOUT_S)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK


async def until_healthy(http: httpx.AsyncClient, monitor_url: str) -> None:
    """Returns when it is."""
    while not await is_healthy(http, monitor_url):
        await asyncio.sleep(HEALTH_POLL_S)


def url_of(links: Mapping[str, Link]) -> str:
    """The brokers as a process behind these links sees them."""
    return ",".join(f"nats://127.0.0.1:{link.port}" for link in links.values())


class _Nats:
    def __init__(self, process: asyncio.subprocess.Process, node: Node, http: httpx.AsyncClient) -> None:
        self.pid = process.pid
        self.wait = process.wait
        self._node, self._http = node, http

    async def ready(self) -> bool:
        await until_healthy(self._http, self._node.monitor_url)
        return True
