"""The address a request comes from, as far as it can be believed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

HOPS_MAX = 32
"""Proxies in a row that are looked at."""

IPV6_PREFIX_BITS = 64
"""A host has a whole /64 to take addresses from."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def networks_of(text: str) -> list[Network]:
    """The setting `trusted_proxies`. Raises ValueError, naming the word that is no address and no network."""
    return [_unmapped(ip_network(word, strict=False)) for word in text.split()]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def client_of(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Who sent a request that `peer` delivered, as limits count it: an IPv4 address, or an IPv6 network.

    `forwarded` are the values of all `X-Forwarded-For` headers in their order. Each proxy appends the one it heard
    from, so the right-most that is no proxy of ours is the last that somebody we trust has seen; what stands left of
    it, anybody may have written.
    """
    client = _address(peer)
    if client is None:
        return ""
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    for hop in reversed(hops[-HOPS_MAX:]):
        if not _is_in(client, trusted):
            break
        before = _address(hop)
        if before is None:
            break
        client = before
    return _told(client)


def _address(text: str) -> Address | None:
    """Also of `1.2.3.4:567` and `[::1]:567`, as some proxies have it."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _told(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((int(address), IPV6_PREFIX_BITS), strict=False))


def _unmapped(network: Network) -> Network:
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped):
        return IPv4Network((int(mapped), max(0, network.prefixlen - 96)), strict=False)
    return network
