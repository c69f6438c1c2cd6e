"""Names of things, and how they are made. All of them are safe inside a subject; client text never is."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NewType

RequestId = NewType("RequestId", str)
TenantKey = NewType("TenantKey", str)
ModelKey = NewType("ModelKey", str)
WorkerId = NewType("WorkerId", str)

ANONYMOUS = TenantKey("public")
"""The tenant of every request while no API keys are configured."""

_RID = re.compile(r"[a-z0-9]{16,64}")
_KEY = re.compile(r"[a-z0-9_-]{1,64}")
RID_BYTES = 16
"""128 bits: no two of ours meet by chance."""


def request_id(randomness: bytes) -> RequestId:
    """A rid of 26 characters from `RID_BYTES` random bytes."""
    assert len(randomness) == RID_BYTES, "a rid is made of 16 random bytes"
    return RequestId(base64.b32encode(randomness).decode().rstrip("=").lower())


def is_request_id(text: str) -> bool:
    """Whether `text` may stand as a rid in a subject."""
    return _RID.fullmatch(text) is not None


def is_key(text: str) -> bool:
    """Whether `text` may stand as a tenant, model, class or worker token in a subject."""
    return _KEY.fullmatch(text) is not None


def model_key(name: str) -> ModelKey:
    """The registry key of a model name: `Qwen/Qwen2.5-1.5B` -> `qwen_qwen2_5-1_5b-9f86d081`.

    A name that already is a key stays itself. Any other gets a hash of the whole name, so that two names that differ
    only in characters a subject cannot hold stay two keys.
    """
    if is_key(name):
        return ModelKey(name)
    folded = re.sub(r"[^a-z0-9_-]", "_", name.lower())[:50]
    return ModelKey(f"{folded}-{hashlib.sha256(name.encode()).hexdigest()[:8]}")


def fingerprint(body: bytes) -> str:
    """What tells two bodies under one rid apart: 128 bits of SHA-256 of the client's body before defaults."""
    return hashlib.sha256(body).hexdigest()[:32]
