"""TCP ports of this machine for servers that are about to start."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections import deque

FREE_PORTS = range(20_000, 32_768)
"""Below the range of outgoing connections (Linux: 32768 to 60999), above what services are known by."""

NAMED_MAX = 1000
CLAIMS_MAX = 200

_named: deque[int] = deque(maxlen=NAMED_MAX)
"""Ports that `free_port` named last."""

_claims: deque[int] = deque()
"""File descriptors of this process's claims, oldest first. Descriptors, because nobody closes them but the end of the
process, and a socket that is collected unclosed is a warning."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago. Not one of those that the kernel gives to outgoing connections: it was
    seen to give the very port to one before the server could listen on it. Not one that was named just before: of
    forty that are chosen first and listened on later, two would be the same one time in sixteen. And none that another
    process has claimed: several systems start on one machine, and each chooses while the others' servers start.
    """
    port = random.choice(FREE_PORTS)
    while port in _named or not claim(port, host):
        port = random.choice(FREE_PORTS)
    _named.append(port)
    return port


def claim(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nobody listens on the port or has claimed it; if so it is now this process's until its end, or until it
    has claimed `CLAIMS_MAX` others.

    A claim is a socket that is bound and never listens. Linux lets a server share it that sets SO_REUSEADDR, as servers
    do, and connections to it are refused until then. Elsewhere it would keep the server away, and none is held.
    """
    if not _can_bind(port, host, reuse=False):
        return False
    if sys.platform != "linux":
        return True
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except OSError:
            return False
        _claims.append(held.detach())
    if len(_claims) > CLAIMS_MAX:
        os.close(_claims.popleft())
    return True


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now.

    Ports of connections that linger after a close count as free, and so do claims.
    """
    return _can_bind(port, host, reuse=True)


def _can_bind(port: int, host: str, *, reuse: bool) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
