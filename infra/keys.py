"""API keys as they are kept: a JSON file of their SHA-256, never the keys themselves.

A key is 256 random bits, so its plain SHA-256 can be turned back by nobody: salt and stretching are for passwords.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from schemas.errors import PenstockError
from schemas.ids import ANONYMOUS, TenantKey, is_key, model_key
from schemas.requests import CLASSES, Klass

KEY_PREFIX = "sk-penstock-"
"""By it secret scanners and people know what it is."""

KEY_BYTES = 32
ID_BYTES = 5
FILE_BYTES_MAX = 16 << 20
"""About 40,000 keys. A larger file is none of ours."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000)]
_Token = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]


class KeyFileError(PenstockError):
    """The key file cannot be read or changed; the message says why."""


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key. `requests_per_min`, `tokens_per_min` and `streams_max` are 0 where the settings decide. `sha256` is in
    hex; `id` is random and says nothing about the key."""

    id: _Token
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    tenant: _Token
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    classes: tuple[Klass, ...] = CLASSES
    requests_per_min: _Count = 0
    tokens_per_min: _Count = 0
    streams_max: _Count = 0
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether it has had its time."""
        return self.expires is not None and now >= self.expires


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the file."""

    keys: list[Key]


_decoder = msgspec.json.Decoder(KeyFile)


def digest_of(text: str) -> bytes:
    """The SHA-256 by which a key is known."""
    return hashlib.sha256(text.encode(errors="replace")).digest()


def default_tenant(name: str) -> TenantKey:
    """The tenant of a key that was made for nobody else."""
    return TenantKey(model_key(name))


def new_key(
    name: str,
    *,
    tenant: str = "",
    classes: tuple[Klass, ...] = CLASSES,
    requests_per_min: int = 0,
    tokens_per_min: int = 0,
    streams_max: int = 0,
    expires: datetime | None = None,
) -> tuple[Key, str]:
    """A key, and its text, which is nowhere else. Raises KeyFileError if the name or the tenant cannot be one."""
    if not _NAME.fullmatch(name):
        raise KeyFileError(
            "a name has 1 to 64 letters, digits and ` ._@-`, and begins with one of the first two"
        )
    if tenant and not is_key(tenant):
        raise KeyFileError("a tenant has 1 to 64 of a-z, 0-9, `_` and `-`")
    if not tenant and default_tenant(name) == ANONYMOUS:
        raise KeyFileError(
            f"the tenant {ANONYMOUS} is that of everybody where no key is needed, and of the setting api_keys: "
            f"choose another name, or say --tenant {ANONYMOUS}"
        )
    text = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    key = Key(
        id=f"k{secrets.token_hex(ID_BYTES)}",
        name=name,
        sha256=digest_of(text).hex(),
        tenant=tenant or default_tenant(name),
        created=datetime.now(UTC).replace(microsecond=0),
        classes=classes,
        requests_per_min=requests_per_min,
        tokens_per_min=tokens_per_min,
        streams_max=streams_max,
        expires=expires,
    )
    return key, text


def read_keys(path: Path) -> list[Key]:
    """The keys of the file. Raises KeyFileError; its message tells nothing of what is in the file."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise KeyFileError(f"the key file {path} has more than {FILE_BYTES_MAX} bytes")
    try:
        keys = _decoder.decode(raw).keys
    except ValueError as error:
        raise KeyFileError(f"the key file {path} is not one: {error}") from None
    for what in ("id", "name", "sha256"):
        if len({getattr(key, what) for key in keys}) < len(keys):
            raise KeyFileError(f"the key file {path} has two keys with one {what}")
    return keys


def add_key(path: Path, key: Key) -> None:
    """Makes the file if there is none. Raises KeyFileError if the name is taken."""
    with _changing(path) as keys:
        if any(key.name in (other.name, other.id) for other in keys):
            raise KeyFileError(f"there is a key {key.name} already: revoke it first, or choose another name")
        keys.append(key)


def remove_key(path: Path, name_or_id: str) -> Key:
    """The key that was in the file and is not any more. Raises KeyFileError if there is none."""
    with _changing(path) as keys:
        found = [key for key in keys if name_or_id in (key.name, key.id)]
        if not found:
            raise KeyFileError(f"there is no key {name_or_id} in {path}")
        keys.remove(found[0])
    return found[0]


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys, to be changed in place; written when the block ends well. Others wait for their turn, and whoever only
    reads sees the old file or the new one."""
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        yield keys
        fresh = path.with_name(f"{path.name}.new")
        try:
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                _keep_owner(file.fileno(), path)
                file.write(msgspec.json.format(msgspec.json.encode(KeyFile(keys))) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            raise KeyFileError(f"cannot write the key file {path}: {error.strerror}") from None


def _keep_owner(descriptor: int, path: Path) -> None:
    """What an administrator changes stays the file of whoever runs the edges: one that they cannot read any more would
    leave a revoked key good."""
    with contextlib.suppress(FileNotFoundError):
        kept = path.stat()
        fresh = os.fstat(descriptor)
        if (kept.st_uid, kept.st_gid) != (fresh.st_uid, fresh.st_gid):
            os.fchown(descriptor, kept.st_uid, kept.st_gid)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A file of its own: the key file is replaced, and a lock would go with the old one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise KeyFileError(f"cannot lock the key file {path}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
