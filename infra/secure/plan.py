"""What a secured broker is made of: its nodes, its users, and the files that nats-server reads. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from infra.secure.running import PID_FILE
from schemas import subjects
from schemas.permissions import (
    ANSWER_S,
    ROLES,
    Permissions,
    Role,
    imports_of,
    permissions_of,
    permissions_of_tenant,
)

ACCOUNT = "PENSTOCK"
SYSTEM_ACCOUNT = "SYS"

ROUTE_PORT_OFFSET = 2_000
MONITOR_PORT_OFFSET = 4_000
"""From the client port: 4222 gives 6222 and 8222, which are nats-server's own."""

TLS_TIMEOUT_S = 5


class Node(msgspec.Struct, frozen=True):
    """One nats-server. `hosts`: names and addresses that its certificate holds for; clients are given the first."""

    name: str
    hosts: list[str]
    port: int

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{_in_url(self.hosts[0])}:{self.port}"

    @property
    def route(self) -> str:
        """Where the other nodes connect."""
        return f"tls://{_in_url(self.hosts[0])}:{self.port + ROUTE_PORT_OFFSET}"


class Plan(msgspec.Struct, frozen=True):
    """The public half of everything: nkeys by role and by tenant. It is what the users of a broker are made from."""

    nodes: list[Node]
    users: dict[Role, str]
    system_user: str
    tenants: dict[str, str]

    @property
    def is_cluster(self) -> bool:
        """Whether there is more than one node."""
        return len(self.nodes) > 1

    @property
    def url(self) -> str:
        """All nodes, as `nats_url` takes them."""
        return ",".join(node.url for node in self.nodes)


def server_config(plan: Plan, node: Node, server: dict[str, Any]) -> str:
    """nats.conf of a node. `server`: limits and JetStream's, as nats-server takes them. Paths are relative to the
    directory that the file is in and the server runs in."""
    config: dict[str, Any] = {
        "server_name": node.name,
        "host": "0.0.0.0",
        "port": node.port,
        # It tells who is connected and what they are subscribed to, to whoever asks.
        "http": f"127.0.0.1:{node.port + MONITOR_PORT_OFFSET}",
        "pid_file": PID_FILE,
        **server,
        "tls": {**_own_certificate(), "timeout": TLS_TIMEOUT_S},
    }
    if plan.is_cluster:
        config["cluster"] = {
            "name": "penstock",
            "host": "0.0.0.0",
            "port": node.port + ROUTE_PORT_OFFSET,
            # Both ways: a node asks whoever connects, and whom it connects to, for a certificate of the CA.
            "tls": {**_own_certificate(), "ca_file": "ca.pem", "verify": True, "timeout": TLS_TIMEOUT_S},
            "routes": [other.route for other in plan.nodes if other != node],
            # Clients are given all nodes by name; the addresses that nodes tell are in no certificate.
            "no_advertise": True,
        }
    return _conf(config) + 'include "accounts.conf"\n'


def accounts_config(plan: Plan) -> str:
    """accounts.conf: who there is, and what each may say."""
    users = [
        _user(plan.users[role], permissions_of(role, inbox=subjects.inbox_prefix(plan.users[role])))
        for role in ROLES
    ]
    exports: list[dict[str, Any]] = []
    accounts: dict[str, Any] = {}
    for tenant, public_key in sorted(plan.tenants.items()):
        account = f"tenant_{tenant}"
        services, streams = imports_of(tenant)
        exports += [{"service": subject, "accounts": [account]} for subject in services]
        exports += [{"stream": subject, "accounts": [account]} for subject in streams]
        accounts[account] = {
            "users": [_user(public_key, permissions_of_tenant(tenant))],
            "imports": [
                *({"service": {"account": ACCOUNT, "subject": subject}} for subject in services),
                *({"stream": {"account": ACCOUNT, "subject": subject}} for subject in streams),
            ],
        }
    accounts[ACCOUNT] = {"jetstream": "enabled", "users": users, "exports": exports}
    accounts[SYSTEM_ACCOUNT] = {"users": [{"nkey": plan.system_user}]}
    return _conf({"accounts": accounts, "system_account": SYSTEM_ACCOUNT})


def _user(public_key: str, permitted: Permissions) -> dict[str, Any]:
    permissions: dict[str, Any] = {
        "publish": {"allow": list(permitted.publish)},
        "subscribe": {"allow": list(permitted.subscribe)},
    }
    if permitted.answers:
        permissions["allow_responses"] = {"max": 1, "expires": f"{ANSWER_S}s"}
    return {"nkey": public_key, "permissions": permissions}


def _own_certificate() -> dict[str, str]:
    return {"cert_file": "server.pem", "key_file": "server-key.pem", "min_version": "1.2"}


def _conf(config: dict[str, Any]) -> str:
    """JSON values are values of nats-server's format, too, which leaves nothing to escape by hand."""
    return "".join(f"{name}: {json.dumps(value, indent=2)}\n" for name, value in config.items())


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
