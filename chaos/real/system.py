"""The system under test, started: every process alone behind links of its own, so that each can be hit alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import httpx

from chaos.real.brokers import Node, NodeLaunch, plan_nodes, plan_routes, url_of, write_config
from chaos.real.disks import Disk
from chaos.real.endings import to_its_end
from chaos.real.members import CHECKOUT, Installation, Launch, Member, RoleLaunch
from chaos.real.proxy import CLEAR, Link
from chaos.real.samples import sample
from chaos.real.shape import BrokerKind, Record, Shape, System, SystemFailed
from infra.ports import free_port
from infra.settings import Settings, load_settings

if TYPE_CHECKING:
    from chaos.real.containers import Containers

__all__ = ["BrokerKind", "Deployment", "Record", "Shape", "System", "SystemFailed"]

SIMULATED = {"engine": "simulator", "model": "penstock-sim"}
ROLES = ("edge", "scheduler", "worker")
STOP_ORDER = ("edge", "worker", "scheduler", "broker")

BROKERS_READY_S = 60.0
"""Three nodes elect a leader of their streams' leaders within about ten seconds; a machine may be busy."""
ROLES_READY_S = 60.0
STOP_S = 40.0
"""Longer than the drain of a role: `drain_timeout_s` is 30 s."""
KILL_S = 5.0


class Deployment:
    """A `System` of child processes, in `directory`: their logs, stores and configs.

    `seed` is of the links' jitter. `installed`: processes by name whose code is not this checkout's.
    """

    def __init__(
        self,
        shape: Shape,
        directory: Path,
        record: Record,
        *,
        seed: int = 0,
        installed: Mapping[str, Installation] = MappingProxyType({}),
    ) -> None:
        rng = random.Random(seed)
        self.shape = shape
        self.directory = directory
        self.nodes: dict[str, Node] = {node.name: node for node in plan_nodes(shape.nodes, directory)}
        self.links: dict[str, dict[str, Link]] = {
            name: {node.name: Link(f"{name}>{node.name}", node.client, rng) for node in self.nodes.values()}
            for name in shape.names(*ROLES)
        }
        """By process, then by node."""
        self.routes, self._routes_of = plan_routes(
            list(self.nodes.values()) if shape.broker == "cluster" else [], rng
        )
        """By the names of who dials and who is dialled; of child processes only."""
        self.disks: dict[str, Disk] = {}
        if shape.disk_bytes:
            self.disks = {node.name: Disk(node.directory, shape.disk_bytes) for node in self.nodes.values()}
        self.containers: Containers | None = None
        self.members: dict[str, Member] = {}
        self._places = {name: _place() for name in shape.names("edge")}
        self._ports = {name: int(place.getsockname()[1]) for name, place in self._places.items()}
        self._record = record
        self._installed = installed
        self._http = httpx.AsyncClient(trust_env=False)
        self._tasks: list[asyncio.Task[None]] = []
        self._sampling: asyncio.Task[None] | None = None

    @property
    def doors(self) -> list[str]:
        """Base URLs of the edges."""
        return [f"http://127.0.0.1:{port}" for port in self._ports.values()]

    @property
    def nats_url(self) -> str:
        """The brokers, past the links."""
        return ",".join(node.url for node in self.nodes.values())

    @property
    def monitor_urls(self) -> list[str]:
        """Where the brokers tell about themselves."""
        return [node.monitor_url for node in self.nodes.values()]

    @property
    def all_links(self) -> list[Link]:
        """Of processes to brokers; not the brokers' routes."""
        return [link for links in self.links.values() for link in links.values()]

    def of(self, role: str) -> list[Member]:
        """The processes of one role."""
        return [member for member in self.members.values() if member.role == role]

    async def start(self) -> None:
        """Returns when everything is ready. Raises SystemFailed; then nothing of it runs."""
        is_up = False
        try:
            await self._start()
            is_up = True
        finally:
            if not is_up:
                await self.stop()

    async def stop(self) -> None:
        """Takes every fault away and ends all processes, in the order of a drain. Goes on when it is cancelled."""
        await to_its_end(self._stop())

    async def _stop(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
        # The last first; each is done, whatever becomes of the others.
        async with contextlib.AsyncExitStack() as parts:
            for place in self._places.values():
                parts.callback(place.close)
            parts.push_async_callback(self._http.aclose)
            if self.containers is not None:
                parts.push_async_callback(self.containers.remove)
            for disk in self.disks.values():
                if disk.is_mounted:
                    parts.push_async_callback(disk.unmount)
            for link in [*self.all_links, *self.routes.values()]:
                parts.push_async_callback(link.stop)
            parts.push_async_callback(self._end_all)
            for link in [*self.all_links, *self.routes.values()]:
                parts.push_async_callback(link.set, CLEAR)

    async def _end_all(self) -> None:
        for role in STOP_ORDER:
            await self._end(self.of(role))
        await asyncio.gather(*self._tasks)

    async def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for link in [*self.all_links, *self.routes.values()]:
            await link.start()
        for disk in self.disks.values():
            await disk.mount()
        await self._add_brokers()
        await self._run("broker", within_s=BROKERS_READY_S)
        for role in ROLES:
            self._add_role(role)
        await self._run(*ROLES, within_s=ROLES_READY_S)
        self._sampling = asyncio.create_task(
            sample(self.members.values(), self.monitor_urls, self._http, self._record)
        )

    async def _add_brokers(self) -> None:
        settings = load_settings({**self.shape.settings, "broker_profile": self.shape.profile})
        if self.shape.broker == "containers":
            # Only here: whoever runs without Docker needs no client of it.
            from chaos.real.containers import Containers

            self.containers = Containers(list(self.nodes.values()), settings, self._http)
            await self.containers.prepare()
        for node in self.nodes.values():
            log_path = self.directory / f"{node.name}.log"
            launch = self._launch_of(node, settings, log_path)
            self.members[node.name] = Member(node.name, "broker", launch, log_path, self._record)

    def _launch_of(self, node: Node, settings: Settings, log_path: Path) -> Launch:
        if self.containers is not None:
            return self.containers.launch(node)
        config = write_config(node, settings, self._routes_of.get(node.name))
        return NodeLaunch(node, config, log_path, self._http)

    def _add_role(self, role: str) -> None:
        for name in self.shape.names(role):
            settings = {
                **SIMULATED,
                **self.shape.settings,
                "nats_url": url_of(self.links[name]),
                "broker_profile": self.shape.profile,
                "store_dir": str(self.directory / "store"),
                "log_format": "json",
            }
            if role == "edge":
                settings["port"] = str(self._ports[name])
            log_path = self.directory / f"{name}.log"
            launch = RoleLaunch(name, role, settings, log_path)
            launch.installation = self._installed.get(name, CHECKOUT)
            self.members[name] = Member(name, role, launch, log_path, self._record)

    async def _run(self, *roles: str, within_s: float) -> None:
        members = [member for role in roles for member in self.of(role)]
        self._tasks += [asyncio.create_task(member.run(), name=member.name) for member in members]
        ready = await asyncio.gather(*(member.wait_ready(within_s) for member in members))
        for member, is_ready in zip(members, ready, strict=True):
            if not is_ready:
                raise SystemFailed(f"{member.name} was not ready within {within_s:g} s:\n{member.log_tail()}")

    async def _end(self, members: list[Member]) -> None:
        for member in members:
            member.end()
            member.resume()
            member.terminate()
        for within_s in (STOP_S, KILL_S):
            deadline = asyncio.get_running_loop().time() + within_s
            while any(member.pid for member in members):
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(0.02)
            for member in members:
                member.kill()


def _place() -> socket.socket:
    """A port for an edge, held for the whole run: while the edge is down, somebody else would take it. Edges share
    theirs (SO_REUSEPORT), and who does not listen gets no connections."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    place.bind(("127.0.0.1", free_port()))
    return place
