"""haproxy.cfg run by HAProxy before something that answers everything."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.ports import free_port
from tests.deploy.compose_file import DEPLOY

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="NOT CHECKED: haproxy is not installed here"
)
WITHIN_S = 15.0


class _Edge(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def door(tmp_path: Path) -> Iterator[int]:
    """The balancer's port."""
    port = free_port()
    config = (DEPLOY / "balancer" / "haproxy.cfg").read_text(encoding="utf-8")
    for bind, there in (("bind :8080", port), ("bind :8405", free_port())):
        assert bind in config
        config = config.replace(bind, f"bind 127.0.0.1:{there}")
    path = tmp_path / "haproxy.cfg"
    path.write_text(config, encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Edge) as edge:
        thread = threading.Thread(target=edge.serve_forever)
        thread.start()
        environment = {"EDGES": f"127.0.0.1:{edge.server_port}", "EDGES_MAX": "1"}
        haproxy = subprocess.Popen(
            [str(shutil.which("haproxy")), "-db", "-f", str(path)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + WITHIN_S
            while status_of(port, "/readyz") != 200:
                assert time.monotonic() < deadline, "the balancer has no edge"
                time.sleep(0.1)
            yield port
        finally:
            haproxy.kill()
            haproxy.wait()
            edge.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "path", ["/metrics", "/%6detrics", "/%6D%65trics?name[]=up", "http://edge/m%65trics"]
)
def test_metrics_are_not_for_clients_however_they_are_spelled(door: int, path: str) -> None:
    assert status_of(door, path) == 404


def test_everything_else_is(door: int) -> None:
    assert status_of(door, "/v1/models?of=/metrics") == 200


def status_of(port: int, path: str) -> int:
    """What the balancer answers; 0: nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
