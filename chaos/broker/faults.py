"""What can go wrong inside the broker, decided message by message by whoever drives the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Decision = Callable[[str], bool]
"""Gets the subject of a message; True: the fault happens to it."""


@dataclass
class BrokerFaults:
    """All faults; None means never. Fields may be changed while the broker runs."""

    lose_ack: Decision | None = None
    """A JetStream publish is stored and its PubAck never leaves."""
    drop_live: Decision | None = None
    """A core or RePublish delivery to one subscriber is lost silently, as to a slow consumer. Not JetStream answers."""
    drop_publish: Decision | None = None
    """A client's publish without a reply subject is lost silently before it arrives."""
    busy: Decision | None = None
    """A publish with an expected last sequence is answered 10164 and not stored: a replicated stream under load."""
    stream_unavailable_until: dict[str, float] = field(default_factory=dict)
    """Stream -> Unix seconds: until then it elects a leader, 4 to 9 s in reality.

    Nobody answers for it (503), its consumers stand still, and open fetches are forgotten without a word.
    """
