"""Where the keys of an edge come from: the settings, and a file that may change while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from edge.access.keyring import SECRET_BYTES, KeyRing
from infra.keys import Key, KeyFileError, digest_of, read_keys
from infra.logs import get_logger
from infra.settings import Settings, SettingsError
from schemas.ids import ANONYMOUS

LOOK_INTERVAL_S = 1.0
"""A look is one `stat`; a revoked key is good for no longer than this."""

_log = get_logger("edge.access")


class KeySource:
    """`ring()` is what holds now. A file that has become bad, or has gone, changes nothing: who may ask must not depend
    on a slip of an editor, and it is told in the log. At the start it stops the process: with no keys to keep there
    would be nobody to let in.

    `now` gives monotonic seconds. Raises SettingsError.
    """

    def __init__(self, settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._secret = os.urandom(SECRET_BYTES)
        self._own = own_keys(settings.api_keys.get_secret_value())
        self._path = Path(settings.keys_file) if settings.keys_file else None
        self._state = self._stat()
        self._fault = ""
        self._looked_at = now()
        try:
            self._ring = KeyRing([*self._own, *self._of_file()], self._secret)
        except KeyFileError as error:
            raise SettingsError(f"keys_file: {error}; `penstock keys create` makes one") from None

    @property
    def is_on(self) -> bool:
        """Whether a key is needed."""
        return bool(self._own) or self._path is not None

    def ring(self) -> KeyRing:
        """Looks at the file first, if the last look was a while ago."""
        if self._path is not None and self._now() - self._looked_at >= LOOK_INTERVAL_S:
            self._looked_at = self._now()
            self._look()
        return self._ring

    def _look(self) -> None:
        state = self._stat()
        if state == self._state:
            return
        try:
            self._ring = KeyRing([*self._own, *self._of_file()], self._secret)
        except KeyFileError as error:
            # Tried again at each look: a process that is out of descriptors now must not miss a key that was revoked.
            if str(error) != self._fault:
                self._fault = str(error)
                _log.warning("the keys stay as they were", error=self._fault)
            return
        self._state, self._fault = state, ""
        _log.info("keys read", path=str(self._path))

    def _of_file(self) -> list[Key]:
        return [] if self._path is None else read_keys(self._path)

    def _stat(self) -> tuple[int, ...]:
        """What is another after every change: a new file has another inode."""
        if self._path is None:
            return ()
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def own_keys(texts: str) -> list[Key]:
    """The keys of the setting `api_keys`. They are one tenant, the one that everybody is without keys, and their ids
    are their places: whatever was made of such a key, which may be a short word, would help to guess it."""
    born = datetime.fromtimestamp(0, UTC)
    return [
        Key(
            id=f"set-{number}",
            name=f"set-{number}",
            sha256=digest_of(text).hex(),
            tenant=ANONYMOUS,
            created=born,
        )
        for number, text in enumerate(dict.fromkeys(texts.split()), start=1)
    ]
