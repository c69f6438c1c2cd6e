"""Three secured nodes: routes over TLS that both sides verify, streams on all of them, and a tenant at another node
than the roles."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from bench.system import System
from bench.transcript import MODEL, assert_whole, stream
from infra.broker import is_healthy
from infra.secure.directory import read_plan
from infra.secure.plan import MONITOR_PORT_OFFSET, ROUTE_PORT_OFFSET
from infra.tether import tethered
from schemas import subjects
from schemas.output import End, decode_ctl
from tests.secure.secured import ANSWER_S, CONNECT_S, ROOT, Stranger, free_base_port, penstock, until

START_TIMEOUT_S = 60.0
END_WITHIN_S = 40.0
TENANT = "acme"
RID = "a" * 26


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("secured") / "cluster"
    nodes = ",".join(f"localhost:{free_base_port()}" for _ in range(3))
    for words in (
        ["init", str(directory), "--secure", "--cluster", nodes],
        ["add-tenant", TENANT, str(directory)],
    ):
        done = penstock("broker", *words)
        assert done.returncode == 0, done.stderr
    plan = read_plan(directory)
    servers = []
    for node in plan.nodes:
        command = [sys.executable, "-m", "infra.cli", "broker", "run", str(directory / node.name)]
        with (directory / f"{node.name}.log").open("wb") as log:
            servers.append(subprocess.Popen(tethered(command), cwd=ROOT, stdout=log, stderr=log))
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all(is_healthy(f"http://127.0.0.1:{node.port + MONITOR_PORT_OFFSET}") for node in plan.nodes):
        assert time.monotonic() < deadline, [log.read_text()[-2000:] for log in directory.glob("*.log")]
        time.sleep(0.1)
    yield directory
    for server in servers:
        server.terminate()
    for server in servers:
        server.wait(60)


@pytest.fixture(scope="module")
def system(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(
        tmp_path_factory.mktemp("store"),
        nats_url=read_plan(cluster).url,
        nats_nkey_file=cluster / "{role}" / "{role}.nk",
        nats_ca_file=cluster / "ca.pem",
        broker_profile="cluster",
    )
    yield running
    assert running.stop() == 0
    assert "forbidden by the broker" not in running.log_path.read_text()


def test_a_stream_through_the_cluster(system: System) -> None:
    assert_whole(stream(system.url, "three nodes", 30), "three nodes", 30)


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_tenant_at_each_node(cluster: Path, system: System, number: int) -> None:
    node = read_plan(cluster).nodes[number]
    tls = ssl.create_default_context(cafile=cluster / "tenants" / TENANT / "ca.pem")
    seed = cluster / "tenants" / TENANT / f"{TENANT}.nk"
    client = Stranger()
    await client.connect(
        node.url, tls=tls, nkeys_seed=str(seed), error_cb=client.note, connect_timeout=CONNECT_S
    )
    rid = f"{RID}{number}"
    call = subjects.js_direct_last("OUTPUT", subjects.output_ctl(TENANT, rid))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    request = subjects.request("standard", MODEL, TENANT, rid)
    live: list[bytes] = []

    async def note(message: Msg) -> None:
        live.append(message.data)

    await client.subscribe(subjects.live(TENANT, rid), cb=note)
    ack = await client.jetstream(timeout=ANSWER_S).publish(request, json.dumps(body).encode())
    assert ack.stream == "REQUESTS"
    end = None
    deadline = time.monotonic() + END_WITHIN_S
    while not isinstance(end, End):
        assert time.monotonic() < deadline
        data = (await client.request(call, b"", timeout=ANSWER_S)).data
        end = decode_ctl(data) if data else None
        await asyncio.sleep(0.02)
    await until(lambda: data in live, "END's live copy")
    assert (end.status, end.n) == ("ok", 5)
    assert not client.refusals
    await client.close()


def test_who_has_no_certificate_is_no_node(cluster: Path) -> None:
    node = read_plan(cluster).nodes[0]
    tls = ssl.create_default_context(cafile=cluster / "ca.pem")
    with (
        socket.create_connection(("127.0.0.1", node.port + ROUTE_PORT_OFFSET), timeout=20) as plain,
        tls.wrap_socket(plain, server_hostname="localhost") as encrypted,
        pytest.raises(ssl.SSLError, match="certificate required"),
    ):
        encrypted.recv(4096)
