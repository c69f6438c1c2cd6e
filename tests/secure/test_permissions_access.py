"""Who is let in at all: TLS that holds and a key that is known, for the official client and for our own processes."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import nats.errors
import pytest
from prometheus_client import CollectorRegistry

from bench.roles import RoleProcess
from infra.access import Access, access_of
from infra.broker import Broker
from infra.bus import Bus
from infra.metrics.process import PERMISSION_VIOLATIONS
from infra.secure.directory import read_plan
from infra.settings import SettingsError
from schemas import subjects
from tests.secure.secured import START_TIMEOUT_S, SecuredBroker, open_client, penstock, until

REFUSED = (nats.errors.Error, ssl.SSLError, OSError)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    broker = SecuredBroker(tmp_path_factory.mktemp("secured") / "broker")
    yield broker
    broker.stop()


def nkey(secured: SecuredBroker, role: str) -> str:
    return str(secured.directory / role / f"{role}.nk")


async def test_a_known_key_over_tls_is_let_in(secured: SecuredBroker) -> None:
    client = await open_client(secured.url, tls=secured.tls(), nkeys_seed=nkey(secured, "edge"))
    assert client.is_connected
    await client.close()


async def test_a_broker_with_the_certificate_of_another_ca_is_refused(
    secured: SecuredBroker, tmp_path: Path
) -> None:
    assert penstock("broker", "init", str(tmp_path / "other"), "--secure").returncode == 0
    for trusted in (
        ssl.create_default_context(cafile=tmp_path / "other" / "ca.pem"),
        ssl.create_default_context(),
    ):
        with pytest.raises(REFUSED, match="certificate verify failed"):
            await open_client(secured.url, tls=trusted, nkeys_seed=nkey(secured, "edge"))


async def test_a_broker_under_a_name_that_is_not_its_own_is_refused(secured: SecuredBroker) -> None:
    with pytest.raises(REFUSED, match="certificate is not valid for"):
        await open_client(
            f"tls://127.0.0.2:{secured.port}", tls=secured.tls(), nkeys_seed=nkey(secured, "edge")
        )


async def test_unknown_keys_and_none_are_refused(secured: SecuredBroker, tmp_path: Path) -> None:
    assert penstock("broker", "init", str(tmp_path / "other"), "--secure").returncode == 0
    with pytest.raises(REFUSED, match="Authorization Violation"):
        await open_client(
            secured.url, tls=secured.tls(), nkeys_seed=str(tmp_path / "other" / "edge" / "edge.nk")
        )
    with pytest.raises(REFUSED, match="Authorization Violation"):
        await open_client(secured.url, tls=secured.tls())
    with pytest.raises(REFUSED, match="Authorization Violation"):
        await open_client(secured.url, tls=secured.tls(), user="admin", password="admin")


def test_nothing_is_said_in_the_clear(secured: SecuredBroker) -> None:
    with socket.create_connection(("127.0.0.1", secured.port), timeout=20) as plain:
        assert plain.recv(4096).startswith(b"INFO ")
        plain.sendall(b'CONNECT {"verbose":true}\r\nPING\r\n')
        said = b""
        while chunk := _received(plain):
            said += chunk
        assert b"+OK" not in said
        assert b"PONG" not in said


def _received(plain: socket.socket) -> bytes:
    try:
        return plain.recv(4096)
    except ConnectionResetError:
        return b""


async def test_a_process_that_wants_tls_does_not_go_on_without(
    own_broker: Broker, secured: SecuredBroker
) -> None:
    """Whoever stands between it and the broker could say that there is no TLS, and get its signature."""
    url = own_broker.url.replace("nats://", "tls://")
    access = access_of(secured.settings(), "edge")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await Bus.connect(url, name="test", fail=print, access=access)


async def test_what_is_forbidden_is_counted(secured: SecuredBroker) -> None:
    registry = CollectorRegistry()
    registry.register(PERMISSION_VIOLATIONS)

    def counted(direction: str) -> float:
        labels = {"direction": direction}
        return registry.get_sample_value("penstock_permission_violations_total", labels) or 0.0

    before = counted("publish"), counted("subscribe")
    bus = await Bus.connect(
        secured.url, name="test", fail=print, access=access_of(secured.settings(), "worker")
    )
    bus.publish(subjects.LEADER)
    bus.publish(subjects.LEADER)
    bus.subscribe(subjects.PULL, print)
    await until(
        lambda: (counted("publish"), counted("subscribe")) == (before[0] + 2, before[1] + 1), "counts"
    )
    assert bus.connected
    await bus.close()


def test_a_process_with_the_key_of_another_role_says_what_it_may_not(
    secured: SecuredBroker, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    access = {**secured.access(), "nats_nkey_file": nkey(secured, "edge")}
    process = RoleProcess("scheduler", "misplaced", log, wait=False, **access)
    _wait_for(log, "forbidden by the broker")
    process.stop()
    told = re.findall(r'"what": ("[^}]*?"), "user"', log.read_text())
    assert told
    assert len(told) == len(set(told)), "each once"


def test_a_process_whose_key_is_not_known_says_so_and_waits(secured: SecuredBroker, tmp_path: Path) -> None:
    assert penstock("broker", "init", str(tmp_path / "other"), "--secure").returncode == 0
    log = tmp_path / "log"
    access = {**secured.access(), "nats_nkey_file": str(tmp_path / "other" / "edge" / "edge.nk")}
    process = RoleProcess("scheduler", "unknown", log, wait=False, **access)
    _wait_for(log, "the broker does not let in the user of this process: U")
    process.stop()
    told = re.findall(r'"error": "([^"]*)"', log.read_text())
    assert told
    # A try that came to another end, one that took too long say, is news, and so is what follows it.
    assert all(one != other for one, other in pairwise(told)), "once, though it tries several times a second"


def test_a_process_that_does_not_trust_the_broker_says_so(secured: SecuredBroker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = RoleProcess("scheduler", "wary", log, wait=False, **{**secured.access(), "nats_ca_file": ""})
    _wait_for(log, "no TLS with the broker")
    process.stop()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("nats_nkey_file", "/nowhere/{role}.nk"),
        ("nats_nkey_file", __file__),
        ("nats_ca_file", "/nowhere/ca.pem"),
        ("nats_ca_file", __file__),
    ],
)
def test_files_that_cannot_be_used_are_bad_configuration(
    secured: SecuredBroker, setting: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=setting):
        access_of(secured.settings(**{setting: value}), "edge")


def test_a_seed_is_never_printed(secured: SecuredBroker) -> None:
    access = access_of(secured.settings(), "edge")
    assert access.seed.startswith("SU")
    assert access.seed not in repr(access)
    assert access.public_key == read_plan(secured.directory).users["edge"]
    assert Access().inbox_prefix == subjects.INBOX


def _wait_for(log: Path, text: str) -> None:
    asyncio.run(until(lambda: text in log.read_text(errors="replace"), text, START_TIMEOUT_S))
