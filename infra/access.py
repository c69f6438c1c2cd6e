"""What a process shows the broker, and what it demands of it: the nkey of its role, and a certificate that holds."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import nkeys

from infra.settings import Settings, SettingsError
from schemas import subjects
from schemas.permissions import Role

ROLE_IN_PATH = "{role}"
"""In `nats_nkey_file` it stands for the role of whoever reads it: one setting gives each process of an `up` its key."""


@dataclass(frozen=True)
class Access:
    """`seed`: of the nkey; empty: none is shown. `tls`: None: whatever the broker wants."""

    seed: str = field(default="", repr=False)
    public_key: str = ""
    tls: ssl.SSLContext | None = None

    @property
    def inbox_prefix(self) -> str:
        """What replies come to: with a key it is one that only this user may listen to."""
        return subjects.inbox_prefix(self.public_key) if self.public_key else subjects.INBOX


def access_of(settings: Settings, role: Role) -> Access:
    """How a process of this role connects. Raises SettingsError."""
    tls = None
    if settings.nats_ca_file or "tls://" in settings.nats_url:
        try:
            tls = ssl.create_default_context(cafile=settings.nats_ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"nats_ca_file {settings.nats_ca_file}: {error}") from None
    if not settings.nats_nkey_file:
        return Access(tls=tls)
    path = Path(settings.nats_nkey_file.replace(ROLE_IN_PATH, role))
    try:
        seed = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"nats_nkey_file {path}: {error}") from None
    public_key = public_key_of(seed)
    if public_key is None:
        raise SettingsError(
            f"nats_nkey_file {path} holds no seed of a user's nkey (a line that begins with SU)"
        )
    return Access(seed, public_key, tls)


def public_key_of(seed: str) -> str | None:
    """The public half of a user's seed, U…; None if that is no such seed."""
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        public_key = pair.public_key.decode()
    except (nkeys.NkeysError, ValueError):
        return None
    return public_key if public_key.startswith("U") else None
