"""An in-memory nats-server: core NATS and the JetStream that Penstock uses, over the real wire protocol.

No I/O and no clock of its own: bytes come in by `Connection.feed`, leave through a callback, and time is given. What it
does is held against the real server by `tests/contract`, which runs unchanged on both.
"""

from __future__ import annotations

from chaos.broker.alarm import CallAt, Cancel
from chaos.broker.broker import FakeBroker, StoredMessage
from chaos.broker.connection import Connection
from chaos.broker.faults import BrokerFaults

__all__ = ["BrokerFaults", "CallAt", "Cancel", "Connection", "FakeBroker", "StoredMessage"]
