"""`penstock broker`: a broker that only lets in whom it knows, from its keys to its run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra import commands
from infra.broker import BrokerError, find_nats_server
from infra.secure import running
from infra.settings import load_settings

if TYPE_CHECKING:
    from infra.secure.plan import Node

broker_app = typer.Typer(
    help="The embedded nats-server alone, in the foreground; or one that lets in only whom it knows."
)

PORT_MAX = 61535
"""The node's monitoring is 4,000 above, see `infra.secure.plan`."""

DirArgument = Annotated[Path, typer.Argument(help="What `init` wrote.", show_default=False)]
TenantArgument = Annotated[str, typer.Argument(help="The tenant's key, as in subjects.", metavar="TENANT")]


@broker_app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write it.")] = Path("secure"),
    secure: Annotated[bool, typer.Option("--secure", help="TLS, and an nkey for each role.")] = False,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of the broker; may be repeated. [localhost]")
    ] = None,
    port: Annotated[int, typer.Option(help="Its client port.", min=1, max=PORT_MAX)] = 4222,
    cluster: Annotated[
        str,
        typer.Option(help="Three nodes instead, as `name[:port],…`.", metavar="NODES", show_default=False),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="New keys for everyone, over the old ones.")] = False,
) -> None:
    """Writes config, keys and certificates of a broker that only lets in whom it knows."""
    if not secure:
        raise BrokerError(
            "`init` is for `--secure`; an open broker on this machine needs none: `penstock broker`"
        )
    _need_cryptography()
    from infra.secure.directory import init as write

    settings = load_settings({"broker_profile": "cluster"} if cluster else {})
    nodes = _cluster_of(cluster, port) if cluster else [_single(host or ["localhost"], port)]
    plan = write(directory, nodes, settings, force=force)
    print(f"penstock: {directory} has the keys of {', '.join(plan.users)}, for the broker at {plan.url}")
    print(f"next: {commands.penstock()} broker run {directory}, and read {directory / 'README.md'}")


@broker_app.command("run")
def run(directory: DirArgument = Path()) -> None:
    """Runs the nats-server of a directory with a nats.conf, in the foreground."""
    folder = running.node_folder(directory)
    server = find_nats_server()
    # Paths in the config are relative, so that the folder may be moved: nats-server takes them from where it runs.
    os.chdir(folder)
    os.execv(server, [server, "--config", running.CONFIG_FILE])


@broker_app.command("reload")
def reload(directory: DirArgument = Path()) -> None:
    """Tells the nats-server that runs in a directory to read users and certificates again."""
    folder = running.node_folder(directory)
    running.reload(folder)
    print(f"penstock: the nats-server in {folder} has read its config again")


@broker_app.command("add-tenant")
def add_tenant(tenant: TenantArgument, directory: DirArgument = Path()) -> None:
    """A user for a tenant that publishes requests itself: it sees its own output and nothing else."""
    _need_cryptography()
    from infra.secure.directory import add_tenant as write

    folder = write(directory, tenant)
    print(f"penstock: {folder} has what {tenant} needs; it may connect after:")
    _say_reload(directory)


@broker_app.command("remove-tenant")
def remove_tenant(tenant: TenantArgument, directory: DirArgument = Path()) -> None:
    """The tenant's key is good for nothing any more."""
    _need_cryptography()
    from infra.secure.directory import remove_tenant as write

    write(directory, tenant)
    print(f"penstock: {tenant} is no user any more, after:")
    _say_reload(directory)


@broker_app.command("renew")
def renew(directory: DirArgument = Path()) -> None:
    """New certificates of the same CA, and the permissions of this version."""
    _need_cryptography()
    from infra.secure.directory import renew as write

    write(directory)
    print("penstock: signed; they hold after:")
    _say_reload(directory)


def _say_reload(directory: Path) -> None:
    from infra.secure.directory import server_folders

    for folder in server_folders(directory):
        print(f"  {commands.penstock()} broker reload {folder}")


def _single(hosts: list[str], port: int) -> Node:
    from infra.secure.plan import Node

    # Whoever runs on the broker's machine reaches it as that, too.
    return Node("penstock", list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"])), port)


def _cluster_of(text: str, port: int) -> list[Node]:
    from infra.secure.plan import Node

    nodes = []
    for number, word in enumerate(text.split(","), 1):
        host, _, own_port = word.strip().partition(":")
        if not host or not (own_port or "1").isdecimal() or not 1 <= int(own_port or port) <= PORT_MAX:
            raise BrokerError(
                f"--cluster {text}: {word!r} is not `name` or `name:port` with a port of at most {PORT_MAX}"
            )
        hosts = list(dict.fromkeys([host, "localhost", "127.0.0.1"]))
        nodes.append(Node(f"broker-{number}", hosts, int(own_port or port)))
    if len(nodes) != 3:
        raise BrokerError(f"--cluster {text}: three nodes, so that one may be lost")
    return nodes


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise BrokerError(
            f"certificates need a package more: {commands.install('penstock[secure]')}"
        ) from None
