"""What `penstock broker init --secure` writes, without a server."""

from __future__ import annotations

import json
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner

from infra.access import public_key_of
from infra.broker import BrokerError
from infra.cli import app
from infra.secure.directory import add_tenant, read_plan, remove_tenant
from schemas.permissions import ROLES

run = CliRunner()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "secure"
    init(made, "--host", "broker.example", "--host", "10.1.2.3")
    return made


def init(directory: Path, *options: str) -> None:
    result = run.invoke(app, ["broker", "init", str(directory), "--secure", *options])
    assert result.exit_code == 0, result


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def accounts(directory: Path) -> dict[str, Any]:
    """accounts.conf of the single broker: JSON after each name."""
    text = (directory / "broker" / "accounts.conf").read_text()
    return dict(json.loads(text.removeprefix("accounts: ").partition("\nsystem_account")[0]))


def test_secrets_are_readable_by_their_owner_alone(directory: Path) -> None:
    secret = {
        path.name for path in directory.rglob("*") if path.suffix == ".nk" or path.stem.endswith("-key")
    }
    assert secret == {"ca-key.pem", "server-key.pem", "sys.nk", *(f"{role}.nk" for role in ROLES)}
    for path in directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600 if path.name in secret else 0o644), path


def test_each_user_has_a_key_of_its_own_that_the_broker_knows(directory: Path) -> None:
    keys = [public_key_of((directory / role / f"{role}.nk").read_text().strip()) for role in [*ROLES, "sys"]]
    assert len(set(keys)) == len(keys)
    told = accounts(directory)
    assert [user["nkey"] for user in (*told["PENSTOCK"]["users"], *told["SYS"]["users"])] == keys


@pytest.mark.parametrize("role", ROLES)
def test_a_folder_is_all_that_a_role_needs(directory: Path, role: str) -> None:
    settings = tomllib.loads((directory / role / "penstock.toml").read_text())
    assert settings.pop("nats_url") == "tls://broker.example:4222"
    assert all((directory / role / file).is_file() for file in settings.values())


def test_the_certificate_is_for_the_broker_s_hosts_and_signed_by_its_ca(directory: Path) -> None:
    ca, node = certificate(directory / "ca.pem"), certificate(directory / "broker" / "server.pem")
    node.verify_directly_issued_by(ca)
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("10.1.2.3"), ip_address("127.0.0.1")]
    assert node.not_valid_after_utc > datetime.now(UTC) + timedelta(days=800)
    with pytest.raises(ValueError):
        ca.verify_directly_issued_by(node)


def test_nothing_is_overwritten_without_force(directory: Path) -> None:
    before = contents(directory)
    again = run.invoke(app, ["broker", "init", str(directory), "--secure"])
    assert isinstance(again.exception, BrokerError)
    assert contents(directory) == before
    init(directory, "--force")
    after = contents(directory)
    assert before.keys() == after.keys()
    assert all(before[path] != after[path] for path in before if path.suffix in (".nk", ".pem"))


def test_init_alone_says_what_it_is_for(tmp_path: Path) -> None:
    result = run.invoke(app, ["broker", "init", str(tmp_path / "open")])
    assert isinstance(result.exception, BrokerError)
    assert not (tmp_path / "open").exists()


def test_renewed_certificates_are_of_the_same_ca(directory: Path) -> None:
    before = contents(directory)
    assert run.invoke(app, ["broker", "renew", str(directory)]).exit_code == 0
    changed = {path.name for path, content in contents(directory).items() if before[path] != content}
    assert changed == {"server.pem", "server-key.pem"}
    certificate(directory / "broker" / "server.pem").verify_directly_issued_by(
        certificate(directory / "ca.pem")
    )


def test_a_tenant_comes_and_goes(directory: Path) -> None:
    folder = add_tenant(directory, "acme")
    assert sorted(path.name for path in folder.iterdir()) == ["acme.nk", "ca.pem"]
    assert accounts(directory)["tenant_acme"]["users"][0]["nkey"] == read_plan(directory).tenants["acme"]
    with pytest.raises(BrokerError, match="a user already"):
        add_tenant(directory, "acme")
    remove_tenant(directory, "acme")
    assert "acme" not in (directory / "broker" / "accounts.conf").read_text()
    assert not folder.exists()
    with pytest.raises(BrokerError, match="no user"):
        remove_tenant(directory, "acme")


@pytest.mark.parametrize("tenant", ["*", "../x", "a.b", "A", ""])
def test_a_tenant_is_a_key(directory: Path, tenant: str) -> None:
    with pytest.raises(BrokerError, match="not the key of a tenant"):
        add_tenant(directory, tenant)


@pytest.mark.parametrize("nodes", ["a,b", "a,b,c,d", "a,b,c:x", "a,,c"])
def test_a_cluster_is_three_nodes(tmp_path: Path, nodes: str) -> None:
    result = run.invoke(app, ["broker", "init", str(tmp_path / "cluster"), "--secure", "--cluster", nodes])
    assert isinstance(result.exception, BrokerError)


def test_what_is_no_directory_of_ours_is_said(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="was not made by"):
        add_tenant(tmp_path, "acme")


@pytest.mark.parametrize("node", ["c:61536", "c:0", "c:99999", "c:x"])
def test_a_node_s_port_leaves_room_for_its_monitoring(tmp_path: Path, node: str) -> None:
    """nats-server would refuse the config that came of it, or listen anywhere."""
    words = ["broker", "init", str(tmp_path / "secure"), "--secure", "--cluster", f"a,b,{node}"]
    assert isinstance(run.invoke(app, words).exception, BrokerError)
    assert not (tmp_path / "secure").exists()
