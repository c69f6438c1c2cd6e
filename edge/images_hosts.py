"""Which remote images an edge may fetch: those of listed hosts, and only from the public Internet. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

import httpx

DEFAULT_PORTS = {"https": 443, "http": 80}

_UNICAST = IPv6Network("2000::/3")
"""All of IPv6 that is handed out to anybody."""

_NAT64 = IPv6Network("64:ff9b::/96")

_SPECIAL_4 = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_SPECIAL_6 = (IPv6Network("2001::/23"), IPv6Network("3fff::/20"))
"""Kept for protocols, relays and documentation; not every Python we run on knows all of them."""


class Host(NamedTuple):
    """One entry of the list. `name` is in lower case; `*.name` stands for the names under it, and not for itself."""

    scheme: str
    name: str
    port: int

    def matches(self, target: Target) -> bool:
        """Whether this entry allows it."""
        if (target.scheme, target.port) != (self.scheme, self.port):
            return False
        return target.name.endswith(self.name[1:]) if self.name.startswith("*.") else target.name == self.name


class Target(NamedTuple):
    """Where a URL leads: `name` as the DNS knows it, `path` as it is sent."""

    scheme: str
    name: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        return self.name if self.port == DEFAULT_PORTS[self.scheme] else f"{self.name}:{self.port}"


def parse_hosts(text: str) -> tuple[Host, ...]:
    """The entries of the setting `image_hosts`, whose form has been checked."""
    return tuple(_host(entry) for entry in text.lower().replace(",", " ").split())


def target_of(url: str) -> Target | None:
    """Where a URL leads, if it is an absolute one of http or https and holds no user name."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    if parsed.scheme not in DEFAULT_PORTS or parsed.userinfo or not parsed.raw_host:
        return None
    port = parsed.port or DEFAULT_PORTS[parsed.scheme]
    return Target(parsed.scheme, parsed.raw_host.decode("ascii"), port, parsed.raw_path.decode("ascii"))


def is_public(address: str) -> bool:
    """Whether an address is one of the public Internet, and does not stand for one that is not.

    IPv6 has addresses that lead to an IPv4 host (mapped ones, NAT64, 6to4): there the latter counts.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = _inner(ip)
        if inner is None:
            return ip in _UNICAST and ip.is_global and not any(ip in network for network in _SPECIAL_6)
        ip = inner
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL_4)


def _host(entry: str) -> Host:
    scheme, _, rest = entry.rpartition("://")
    name, _, port = rest.partition(":")
    return Host(scheme or "https", name, int(port) if port else DEFAULT_PORTS[scheme or "https"])


def _inner(ip: IPv6Address) -> IPv4Address | None:
    return ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
