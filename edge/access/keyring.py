"""The keys that are good, and whether a text is one of them. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from infra.keys import Key, digest_of

SECRET_BYTES = 32
"""Of the randomness a ring is made with."""

_NOBODY = bytes(32)
"""No SHA-256 that anybody knows a text of."""


class KeyRing:
    """Takes the same time for a good key, a wrong one and one that has expired.

    Keys are found by a keyed hash under `secret`, new in each process: where a table looks depends on nothing that a
    client could know or steer, so its timing tells nothing, however many keys there are. What is found is then compared
    in constant time, and if nothing is found, so is a digest that nobody has.
    """

    def __init__(self, keys: Sequence[Key], secret: bytes) -> None:
        assert len(secret) == SECRET_BYTES, "a keyed hash needs a secret"
        self._secret = secret
        self._keys = {self._place(bytes.fromhex(key.sha256)): key for key in keys}
        self._by_id = {key.id: key for key in keys}
        self._digests = {place: bytes.fromhex(key.sha256) for place, key in self._keys.items()}

    def find(self, text: str, now: datetime) -> Key | None:
        """The key whose text this is, if it is still good."""
        digest = digest_of(text)
        place = self._place(digest)
        is_same = hmac.compare_digest(self._digests.get(place, _NOBODY), digest)
        key = self._keys.get(place)
        return key if is_same and key is not None and not key.is_expired(now) else None

    def named(self, id_: str, now: datetime) -> Key | None:
        """The key with this id, if it is still good. It says nothing about who asks: ids are no secrets."""
        key = self._by_id.get(id_)
        return None if key is None or key.is_expired(now) else key

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=32).digest()
