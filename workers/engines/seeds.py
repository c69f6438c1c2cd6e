"""The seed of a request that samples and brings none. Pure."""

from __future__ import annotations

import hashlib


def seed_of(rid: str) -> int:
    """31 bits of SHA-256(rid), which every engine takes: whoever runs the request finds the same, so what was cut off
    can be made again."""
    return int.from_bytes(hashlib.sha256(rid.encode()).digest()[:4], "big") >> 1
