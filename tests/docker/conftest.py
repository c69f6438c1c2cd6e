"""Images and a running system of containers. Where no container can run, every test here is skipped and says so."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docker.composed import HEALTHY_TIMEOUT_S, Composed
from tests.docker.daemon import Docker, NoDocker, a_docker
from tests.docker.images import BASE, build, make_base, make_context

TARGETS = ["broker", "scheduler", "edge", "worker"]


def image(target: str) -> str:
    """The tag of a target's image."""
    return f"penstock-test-{target}"


class Built:
    """A daemon with an image of every target, and the context they were built from."""

    def __init__(self, docker: Docker, context: Path) -> None:
        self.docker = docker
        self.context = context


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    """Takes about a minute and a half, most of it for the base."""
    # A socket's path has at most 108 bytes: not below pytest's.
    directory = Path(tempfile.mkdtemp(prefix="penstock-docker-"))
    try:
        with a_docker(directory) as docker:
            make_base(docker, directory)
            context = make_context(docker, directory)
            for target in TARGETS:
                build(docker, context, target, image(target))
            yield Built(docker, context)
    except NoDocker as why:
        pytest.skip(f"THE DOCKER TIER DID NOT RUN: {why}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Running(Composed):
    """Broker, two schedulers, two workers, two edges and the balancer, of the profile `sim`."""

    def __init__(self, docker: Docker) -> None:
        names = {"broker": "broker", "scheduler": "scheduler", "edge": "edge", "worker-sim": "worker"}
        images = {service: image(target) for service, target in names.items()}
        super().__init__(docker, {**images, "balancer": BASE}, {"PENSTOCK_MODEL": "penstock-sim"})

    def up(self) -> None:
        """In the order that compose.yaml says."""
        self.brokers = self.start("broker")
        self.schedulers = self.start("scheduler")
        self.wait_healthy(*self.schedulers)
        self.workers = self.start("worker-sim", more={"PENSTOCK_ITL_MS": "20"})
        self.edges = self.start("edge")
        config = "/usr/local/etc/haproxy/haproxy.cfg"
        self.balancers = self.start("balancer", words=["haproxy", "-W", "-db", "-f", config])
        self.wait_healthy(*self.brokers, *self.workers, *self.edges)
        self.balancer_url = self.url(self.balancers[0], 8080)
        self.wait_balanced()

    def wait_balanced(self) -> None:
        """Returns when the balancer has found an edge that is ready: it asks each one itself, once a second."""
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        while httpx.get(f"{self.balancer_url}/readyz").status_code != 200:
            assert time.monotonic() < deadline, self.logs(self.balancers[0])
            time.sleep(0.1)


@pytest.fixture
def system(built: Built) -> Iterator[Running]:
    """Its own for each test: they kill parts of it."""
    running = Running(built.docker)
    try:
        running.up()
        yield running
    finally:
        running.close()
