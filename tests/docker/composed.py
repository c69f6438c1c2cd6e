"""compose.yaml run by the plain `docker` command: what Compose would do with the services of a profile."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.deploy.compose_file import DEPLOY, seconds, services
from tests.docker.daemon import Docker

HEALTHY_TIMEOUT_S = 60.0


class Composed:
    """One network and the containers in it; `close` removes all of it. `images`: of the services, by name."""

    def __init__(
        self, docker: Docker, images: Mapping[str, str], env: Mapping[str, str] | None = None
    ) -> None:
        self.docker = docker
        self.name = f"penstock-{secrets.token_hex(3)}"
        self._services = services(env)
        self._images = images
        self._containers: list[str] = []
        self._volumes: list[str] = []
        docker("network", "create", self.name)

    def start(
        self, service: str, *, more: Mapping[str, str] | None = None, words: Sequence[str] | None = None
    ) -> list[str]:
        """All replicas of a service; the containers' names. `more`: environment; `words`: another command."""
        described = self._services[service]
        count = described.get("deploy", {}).get("replicas", 1)
        started = [f"{self.name}-{service}-{number}" for number in range(1, count + 1)]
        for container in started:
            command = described.get("command", []) if words is None else words
            self._containers.append(container)
            self.docker(
                *["run", "--detach", "--name", container, "--network", self.name, "--network-alias", service],
                *self._options(described, more or {}),
                self._images[service],
                *command,
            )
        return started

    def wait_healthy(self, *containers: str) -> None:
        """Returns when all health checks pass."""
        for container in containers:
            self.wait_for(container, "healthy")

    def wait_for(self, container: str, status: str) -> None:
        """Returns when the health check says `status`."""
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        while (found := self.health(container)) != status:
            assert time.monotonic() < deadline, f"{container} is {found}: {self.logs(container)}"
            time.sleep(0.2)

    def health(self, container: str) -> str:
        """What the container's health check says: starting, healthy, unhealthy."""
        return self.docker("inspect", "--format", "{{.State.Health.Status}}", container)

    def stop(self, container: str) -> int:
        """SIGTERM, as Compose sends it; the exit code."""
        self.docker("stop", container)
        return int(self.docker("inspect", "--format", "{{.State.ExitCode}}", container))

    def logs(self, container: str) -> str:
        """Everything it wrote."""
        ran = self.docker.run("logs", container)
        return ran.stdout + ran.stderr

    def url(self, container: str, port: int) -> str:
        """Where this machine reaches a published port."""
        ran = self.docker.run("port", container, f"{port}/tcp")
        assert ran.returncode == 0, f"{ran.stderr}{self.logs(container)}"
        address = ran.stdout.splitlines()[0]
        return f"http://{address}"

    def close(self) -> None:
        """Nothing of it is left."""
        if self._containers:
            self.docker.run("rm", "--force", "--volumes", *self._containers)
        for volume in self._volumes:
            self.docker.run("volume", "rm", "--force", volume)
        self.docker.run("network", "rm", self.name)

    def _options(self, described: Mapping[str, Any], more: Mapping[str, str]) -> list[str]:
        limits = described["deploy"]["resources"]["limits"]
        # The image's own check, but more often: every test waits for it.
        options = ["--memory", limits["memory"], "--cpus", limits["cpus"], "--health-interval", "1s"]
        options += ["--read-only"] if described.get("read_only") else []
        options += ["--stop-timeout", str(seconds(described["stop_grace_period"]))]
        options += [word for one in described.get("cap_drop", []) for word in ("--cap-drop", one)]
        options += [word for one in described.get("security_opt", []) for word in ("--security-opt", one)]
        options += [word for one in described.get("tmpfs", []) for word in ("--tmpfs", one)]
        environment = {**described.get("environment", {}), **more}
        options += [word for pair in environment.items() for word in ("--env", "=".join(pair))]
        for mount in described.get("volumes", []):
            options += ["--volume", self._mount(mount)]
        # On any free port of this machine instead of the one it names.
        inside = [port.rpartition(":")[2] for port in described.get("ports", [])]
        options += [word for port in inside for word in ("--publish", f"127.0.0.1::{port}")]
        if "stop_signal" in described:
            options += ["--stop-signal", described["stop_signal"]]
        return options

    def _mount(self, mount: str) -> str:
        source, _, rest = mount.partition(":")
        if source.startswith("."):
            return f"{(DEPLOY / source).resolve()}:{rest}"
        self._volumes.append(f"{self.name}-{source}")
        return f"{self._volumes[-1]}:{rest}"


def inspected(docker: Docker, image: str) -> dict[str, Any]:
    """What an image is told to run."""
    found: dict[str, Any] = json.loads(docker("image", "inspect", image))[0]["Config"]
    return found
