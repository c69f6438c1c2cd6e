"""What a connection to the broker has to tell an operator: why it is not made, and what the broker forbids.

Every line is said once: a client tries to connect several times a second, and asks what it may not ask for each
request anew.
"""

from __future__ import annotations

import logging
import ssl

from infra.logs import get_logger
from infra.metrics.process import PERMISSION_VIOLATIONS
from schemas import subjects

FORBIDDEN_TOLD_MAX = 100
"""Different subjects that a log line is written for; what is forbidden beyond them is only counted."""

JS_ACK = subjects.JS_ACK.encode()

_log = get_logger("bus")


class BrokerErrors:
    """Of one connection. `user`: the public half of its nkey, or empty."""

    def __init__(self, user: str) -> None:
        self._user = user or "one without an nkey"
        self._last = ""
        self._forbidden: dict[bytes, None] = {}

    @property
    def last(self) -> str:
        """Why there is no connection; empty: nothing was said yet."""
        return self._last

    async def report(self, error: Exception) -> None:
        """An attempt to connect has failed."""
        text = f"{type(error).__name__}: {error}"
        level = logging.WARNING
        if "authorization" in text.lower():
            level, text = logging.ERROR, f"the broker does not let in the user of this process: {self._user}"
        elif isinstance(error, ssl.SSLError):
            level, text = logging.ERROR, f"no TLS with the broker; is nats_ca_file the one of its CA? {error}"
        if text != self._last:
            _log.log(level, "broker connection", error=text)
        self._last = text

    def connected(self) -> None:
        """What goes wrong from now on is news."""
        self._last = ""

    def forbidden(self, line: bytes) -> None:
        """The broker forbids a subject to this user. The connection goes on, and whoever waits for an answer waits in
        vain: so it is said here."""
        what = line.partition(b"Violation for ")[2].strip(b"'\r\n ")
        PERMISSION_VIOLATIONS.labels("subscribe" if what.startswith(b"Sub") else "publish").inc()
        # An ack subject settles a request for whoever has it: what it is one of is enough.
        what = what if (ack := what.find(JS_ACK)) < 0 else what[: ack + len(JS_ACK)]
        if what in self._forbidden or len(self._forbidden) >= FORBIDDEN_TOLD_MAX:
            return
        self._forbidden[what] = None
        _log.error(
            "forbidden by the broker: is the nkey of this process that of its role, and are the broker's "
            "permissions those of this version?",
            what=what.decode(errors="replace"),
            user=self._user,
        )
