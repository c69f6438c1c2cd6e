"""healthy.py as containers run it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra import broker, broker_monitor
from infra.broker import is_healthy
from tests.deploy.compose_file import DEPLOY

NOBODY = "http://127.0.0.1:1"
PROXIES = {"http_proxy": NOBODY, "HTTP_PROXY": NOBODY, "all_proxy": NOBODY, "no_proxy": ""}


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"server_id": "N"}')

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_container_is_asked_past_the_proxy_of_its_environment(port: int) -> None:
    command = [sys.executable, "-IS", str(DEPLOY / "healthy.py"), f"http://127.0.0.1:{port}/healthz"]
    checked = subprocess.run(command, env=PROXIES, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


async def test_a_broker_of_this_machine_is_too(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    # How fast it answers is not asked here.
    monkeypatch.setattr(broker, "HEALTH_TIMEOUT_S", 20.0)
    monkeypatch.setattr(broker_monitor, "TIMEOUT_S", 20.0)
    assert is_healthy(f"http://127.0.0.1:{port}")
    assert await broker_monitor.varz(port) is not None
