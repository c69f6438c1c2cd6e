"""The three brokers in Docker, by testcontainers. The image is the nats-server binary on nothing: no registry is asked.

Docker must run on this machine: processes in containers are signalled from outside, by their ids. Unlike child
processes, containers outlive whoever started them if that is killed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import docker
import httpx
from docker.models.containers import Container
from docker.models.networks import Network as DockerNetwork
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network

from chaos.real.brokers import CLUSTER, Node, until_healthy
from chaos.real.endings import to_its_end
from chaos.real.members import Launch, Running
from infra.broker import broker_config, find_nats_server
from infra.ports import free_port
from infra.settings import Settings

CLIENT_PORT, MONITOR_PORT, ROUTE_PORT = 4222, 8222, 6222
STORE = Path("/store")
LABEL = "penstock.chaos"
"""Of our containers: the network that they are in."""

END_POLL_S = 0.05
DOCKERFILE = 'FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT ["/nats-server"]\n'


class Containers:
    """One network, and a container for each node, whose ports are published on the node's own."""

    def __init__(self, nodes: list[Node], settings: Settings, http: httpx.AsyncClient) -> None:
        # The container that would clean up after us comes from a registry.
        testcontainers_config.ryuk_disabled = True
        self._nodes = nodes
        self._settings = settings
        self._http = http
        self._docker = docker.from_env()
        self._network = Network()
        self._containers: dict[str, DockerContainer] = {}
        self._started: dict[str, DockerContainer] = {}
        self._routes: dict[str, str] = {}

    async def prepare(self) -> None:
        """Builds the image and makes the network. Raises docker.errors.DockerException."""
        await to_its_end(asyncio.to_thread(self._prepare))

    def launch(self, node: Node) -> Launch:
        """Starts the node's container, again and again on the same store."""

        async def start() -> Running:
            return await to_its_end(asyncio.to_thread(self._start, node))

        return start

    async def cut_off(self, name: str) -> None:
        """Takes a node out of the network: neither its peers nor its clients reach it."""
        await to_its_end(asyncio.to_thread(self._named_network().disconnect, self._wrapped(name)))

    async def join(self, name: str) -> None:
        """Puts it back, if it is out."""
        await to_its_end(asyncio.to_thread(self._join, name))

    async def remove(self) -> None:
        """Nothing is left of it but the image."""
        await to_its_end(asyncio.to_thread(self._remove))

    def _prepare(self) -> None:
        context = self._nodes[0].directory.parent / "image"
        context.mkdir()
        shutil.copy(find_nats_server(), context / "nats-server")
        (context / "Dockerfile").write_text(DOCKERFILE)
        image = DockerImage(path=str(context), tag="penstock-broker:chaos", clean_up=False).build()
        self._network.create()
        # Published as well, and dialled at the host: its firewall may keep containers from each other.
        (addresses,) = self._named_network().attrs["IPAM"]["Config"]
        self._routes = {node.name: f"{addresses['Gateway']}:{free_port()}" for node in self._nodes}
        for node in self._nodes:
            node.directory.mkdir()
            (node.directory / "nats-server.conf").write_text(self._config(node))
            self._containers[node.name] = (
                DockerContainer(str(image))
                .with_command(f"--config {STORE}/nats-server.conf")
                .with_volume_mapping(str(node.directory), str(STORE), "rw")
                .with_network(self._network)
                .with_kwargs(labels={LABEL: self._network.name})
                .with_bind_ports(ROUTE_PORT, int(self._routes[node.name].rpartition(":")[2]))
                .with_bind_ports(CLIENT_PORT, node.client[1])
                .with_bind_ports(MONITOR_PORT, int(node.monitor_url.rpartition(":")[2]))
            )

    def _config(self, node: Node) -> str:
        config = json.loads(broker_config(self._settings, CLIENT_PORT, MONITOR_PORT, STORE))
        config |= {"server_name": node.name, "host": "0.0.0.0", "http": f"0.0.0.0:{MONITOR_PORT}"}
        config["cluster"] = {
            "name": CLUSTER,
            "listen": f"0.0.0.0:{ROUTE_PORT}",
            "cluster_advertise": self._routes[node.name],
            "routes": [f"nats://{self._routes[other.name]}" for other in self._nodes if other is not node],
            "no_advertise": True,
        }
        return json.dumps(config, indent=2) + "\n"

    def _start(self, node: Node) -> Running:
        if node.name in self._started:
            self._wrapped(node.name).start()
        else:
            self._started[node.name] = self._containers[node.name].start()
        return _InContainer(self._wrapped(node.name), node, self._http)

    def _join(self, name: str) -> None:
        network, container = self._named_network(), self._wrapped(name)
        container.reload()
        if network.name not in container.attrs["NetworkSettings"]["Networks"]:
            network.connect(container)

    def _remove(self) -> None:
        # As Docker has them: also what was made and did not start.
        ours = {"label": f"{LABEL}={self._network.name}"}
        for container in self._docker.containers.list(all=True, filters=ours):
            container.remove(force=True, v=True)
        for network in self._docker.networks.list(names=[self._network.name]):
            network.remove()
        self._docker.close()

    def _wrapped(self, name: str) -> Container:
        return self._started[name].get_wrapped_container()

    def _named_network(self) -> DockerNetwork:
        return self._docker.networks.get(self._network.name)


class _InContainer:
    def __init__(self, container: Container, node: Node, http: httpx.AsyncClient) -> None:
        container.reload()
        self.pid = int(container.attrs["State"]["Pid"])
        self._container, self._node, self._http = container, node, http

    async def wait(self) -> int:
        while self._is_there():
            await asyncio.sleep(END_POLL_S)
        code = int((await asyncio.to_thread(self._container.wait))["StatusCode"])
        return 128 - code if code > 128 else code

    def _is_there(self) -> bool:
        # 0: it ended before it was looked at.
        return self.pid != 0 and Path(f"/proc/{self.pid}").exists()

    async def ready(self) -> bool:
        await until_healthy(self._http, self._node.monitor_url)
        return True
