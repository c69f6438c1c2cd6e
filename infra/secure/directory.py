"""The directory of a secured broker: one folder for each machine's share, so that nobody gets another's keys."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec
import nkeys

from infra.access import ROLE_IN_PATH, public_key_of
from infra.broker import BrokerError, jetstream_limits, server_limits
from infra.secure.certificates import CA_DAYS, NODE_DAYS, Signed, make_ca, make_node
from infra.secure.plan import Node, Plan, accounts_config, server_config
from infra.secure.running import CONFIG_FILE
from infra.settings import Settings
from schemas.ids import is_key
from schemas.permissions import ROLES

PLAN_FILE = "broker.json"
SYSTEM_USER = "sys"

PRIVATE, PUBLIC = 0o600, 0o644


class _User(NamedTuple):
    seed: str
    public_key: str


def init(directory: Path, nodes: list[Node], settings: Settings, *, force: bool) -> Plan:
    """Writes everything anew. Raises BrokerError if there is something in the directory, unless `force`."""
    if directory.exists() and any(directory.iterdir()) and not force:
        raise BrokerError(
            f"{directory} is not empty: choose another, or --force makes new keys and certificates for everyone"
        )
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    roles = {role: _make_user() for role in ROLES}
    system = _make_user()
    plan = Plan(
        nodes=nodes,
        users={role: user.public_key for role, user in roles.items()},
        system_user=system.public_key,
        tenants={},
    )
    ca = make_ca()
    _write(directory / "ca.pem", ca.certificate)
    _write(directory / "ca-key.pem", ca.key, PRIVATE)
    for name, user in [*roles.items(), (SYSTEM_USER, system)]:
        _write_client(directory / name, name, user.seed, plan, ca.certificate)
    _write(directory / "penstock.toml", _toml(plan, f"{ROLE_IN_PATH}/{ROLE_IN_PATH}.nk"))
    for node in nodes:
        _write(_folder(directory, plan, node) / CONFIG_FILE, _server_config(plan, node, settings))
    _write_certificates(directory, plan, ca)
    _write_accounts(directory, plan)
    _write(directory / "README.md", _readme(plan))
    return plan


def add_tenant(directory: Path, tenant: str) -> Path:
    """A user for a tenant that publishes requests itself; the folder with what it needs. Raises BrokerError."""
    if not is_key(tenant):
        raise BrokerError(
            f"{tenant!r} is not the key of a tenant: lower-case letters, digits, _ and -, at most 64"
        )
    plan = read_plan(directory)
    if tenant in plan.tenants:
        raise BrokerError(f"{tenant} is a user already: {directory / 'tenants' / tenant}")
    user = _make_user()
    plan = msgspec.structs.replace(plan, tenants={**plan.tenants, tenant: user.public_key})
    folder = directory / "tenants" / tenant
    ca = (directory / "ca.pem").read_bytes()
    _write(folder / "ca.pem", ca)
    _write(folder / f"{tenant}.nk", user.seed + "\n", PRIVATE)
    _write_accounts(directory, plan)
    return folder


def remove_tenant(directory: Path, tenant: str) -> None:
    """The tenant's user is nobody any more. Raises BrokerError."""
    plan = read_plan(directory)
    if tenant not in plan.tenants:
        raise BrokerError(
            f"{tenant} is no user of {directory}; there are: {', '.join(sorted(plan.tenants)) or 'none'}"
        )
    left = {name: key for name, key in plan.tenants.items() if name != tenant}
    _write_accounts(directory, msgspec.structs.replace(plan, tenants=left))
    shutil.rmtree(directory / "tenants" / tenant, ignore_errors=True)


def renew(directory: Path) -> None:
    """New certificates for all nodes, of the same CA: clients notice nothing. And the permissions of this version.
    Raises BrokerError."""
    plan = read_plan(directory)
    try:
        ca = Signed((directory / "ca.pem").read_bytes(), (directory / "ca-key.pem").read_bytes())
    except OSError as error:
        raise BrokerError(f"the CA's key is needed to sign: {error}") from None
    _write_certificates(directory, plan, ca)
    _write_accounts(directory, plan)


def read_plan(directory: Path) -> Plan:
    """What `init` wrote there. Raises BrokerError."""
    try:
        return msgspec.json.decode((directory / PLAN_FILE).read_bytes(), type=Plan)
    except (OSError, ValueError) as error:
        raise BrokerError(f"{directory} was not made by `penstock broker init --secure`: {error}") from None


def server_folders(directory: Path) -> list[Path]:
    """Where the nodes' servers run. Raises BrokerError."""
    plan = read_plan(directory)
    return [_folder(directory, plan, node) for node in plan.nodes]


def _folder(directory: Path, plan: Plan, node: Node) -> Path:
    return directory / (node.name if plan.is_cluster else "broker")


def _server_config(plan: Plan, node: Node, settings: Settings) -> str:
    jetstream = jetstream_limits(settings, Path("data"))
    return server_config(plan, node, {**server_limits(), "jetstream": jetstream})


def _write_certificates(directory: Path, plan: Plan, ca: Signed) -> None:
    for node in plan.nodes:
        folder = _folder(directory, plan, node)
        signed = make_node(ca, node.hosts)
        _write(folder / "ca.pem", ca.certificate)
        _write(folder / "server.pem", signed.certificate)
        _write(folder / "server-key.pem", signed.key, PRIVATE)


def _write_accounts(directory: Path, plan: Plan) -> None:
    for node in plan.nodes:
        _write(_folder(directory, plan, node) / "accounts.conf", accounts_config(plan))
    # Last: what it says is there.
    _write(directory / PLAN_FILE, msgspec.json.format(msgspec.json.encode(plan)) + b"\n")


def _write_client(folder: Path, name: str, seed: str, plan: Plan, ca: bytes) -> None:
    _write(folder / "ca.pem", ca)
    _write(folder / f"{name}.nk", seed + "\n", PRIVATE)
    if name != SYSTEM_USER:
        _write(folder / "penstock.toml", _toml(plan, f"{name}.nk"))


def _toml(plan: Plan, nkey_file: str) -> str:
    profile = 'broker_profile = "cluster"\n' if plan.is_cluster else ""
    # A JSON string is a TOML string.
    return (
        f"nats_url = {json.dumps(plan.url)}\nnats_nkey_file = {json.dumps(nkey_file)}\n"
        f'nats_ca_file = "ca.pem"\n{profile}'
    )


def _make_user() -> _User:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
    public_key = public_key_of(seed)
    assert public_key is not None, "the seed of a user has a public half"
    return _User(seed, public_key)


def _write(path: Path, content: str | bytes, mode: int = PUBLIC) -> None:
    """Replaces the file at once, and is never readable by more than it may be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    fresh.replace(path)


def _readme(plan: Plan) -> str:
    nodes = "\n".join(f"    penstock broker run {node.name}" for node in plan.nodes)
    run = f"On each node's machine:\n\n{nodes}" if plan.is_cluster else "    penstock broker run ."
    return f"""# Access to a Penstock broker

{plan.url}. Whoever connects must speak TLS and show an nkey that the broker knows.

| folder | goes to |
|---|---|
| `broker` (of a cluster: one for each node) | the machine of that nats-server |
| `edge`, `scheduler`, `worker` | the machines of these processes, which run in it: `cd edge && penstock edge` |
| `admin` | whoever may look at and change streams: `cd admin && penstock dead list` |
| `observer` | monitoring; it sees what clients say and get |
| `sys` | whoever may ask the server itself (system account): `nats --nkey sys/sys.nk …` |
| `tenants/<name>` | a tenant that publishes requests itself: `penstock broker add-tenant <name>` |

`*.nk`, `*-key.pem` are secret. `ca-key.pem` is needed by `penstock broker renew` alone: keep it somewhere else.

## Run

{run}

All roles of one machine, each with its own key: `penstock up`, here, where `penstock.toml` is.

## Renew

The broker's certificates hold for {NODE_DAYS} days, the CA's for {CA_DAYS}. `penstock broker renew` signs new ones, and
writes the permissions of the installed version; then `penstock broker reload`. Clients notice nothing.

A key that got out: take the user's folder away from where it is, `penstock broker init --secure --force` makes new keys
and certificates for everyone (tenants are added anew), restart the broker, then the roles. Data stays.

A client that is not Penstock's and shows a role's key must set its inbox prefix to `_INBOX_` and the 2nd to the 17th
character of its public key (`broker.json`). A tenant's need none.
"""
