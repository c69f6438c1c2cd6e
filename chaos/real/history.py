"""What a run leaves behind: a file of JSON lines, in the order in which things were seen, checked when all is over.

Two witnesses write it. Clients tell what they asked and were told; a tap tells what the broker stored and removed, at
once, because the retention of streams takes the evidence away. Times (`at`) are Unix seconds of the one machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

Way = Literal["stream", "whole", "direct"]
"""How somebody asks: over HTTP for a stream or for a whole answer, or as a publisher on NATS."""

Outcome = Literal["complete", "error", "broken", "left", "refused", "unknown"]
"""How it ended for a client: a clean end; an error it was told; a connection that broke off; it went away itself; not
accepted, and told so; nobody can say whether it was accepted."""


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The run: its seed, its broker ("embedded", "cluster"), how many of each role, and the settings that differ."""

    at: float
    seed: int
    broker: str
    roles: dict[str, int]
    settings: dict[str, str]
    version: str


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """A fault begins or is over. `id` pairs the two; `kind` is the nemesis's name, `target` whom it hits."""

    at: float
    id: int
    kind: str
    target: str
    phase: Literal["begin", "end"]
    detail: str = ""


class Asked(msgspec.Struct, frozen=True, tag="asked"):
    """A client asks. `ask` numbers the connection, `request` the wish behind it: a retry with the same key and a resume
    share it. `body` is what was sent; `may_fail` says why it may end not ok ("poison", "deadline", ...). `leaving` is
    what it said its going means ("cancel", "detach", "grace=5"; empty: nothing)."""

    at: float
    ask: int
    request: int
    way: Way
    tenant: str
    klass: str
    door: str
    body: msgspec.Raw
    key: str = ""
    rid: str = ""
    last_event_id: str = ""
    may_fail: str = ""
    leaving: str = ""


class Headed(msgspec.Struct, frozen=True, tag="headed"):
    """The head of the answer, or the PubAck of a publisher (status 200)."""

    at: float
    ask: int
    status: int
    rid: str


class Told(msgspec.Struct, frozen=True, tag="told"):
    """A piece of the answer, with the id of its event (empty: it had none), of one of the choices."""

    at: float
    ask: int
    id: str
    text: str
    choice: int = 0


class Over(msgspec.Struct, frozen=True, tag="over"):
    """Nothing more comes. `reason` is the error's code, `tokens` what the usage says (-1: not told)."""

    at: float
    ask: int
    outcome: Outcome
    reason: str = ""
    finish_reason: str = ""
    tokens: int = -1


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """A cancel was answered; status 0: it was asked for and nobody answered, so it may have come to something."""

    at: float
    request: int
    rid: str
    status: int


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """The tap saw a message of a stream. `record` is its body, as JSON where it is JSON; `stored_at` is the broker's
    own time of it (0: not told)."""

    at: float
    stream: str
    seq: int
    subject: str
    headers: dict[str, str]
    record: msgspec.Raw
    stored_at: float = 0.0


class Removed(msgspec.Struct, frozen=True, tag="removed"):
    """The tap saw that a message has left a stream, `how`: "acked", "deleted" or, where nobody was seen to ask for it,
    "unseen". `asked_at` is when the ack or the deletion was seen on its way, `gone_at` when the broker first said that
    the message is not there (0: not told)."""

    at: float
    stream: str
    seq: int
    how: str
    asked_at: float = 0.0
    gone_at: float = 0.0


class Missed(msgspec.Struct, frozen=True, tag="missed"):
    """The tap came too late for these sequences of a stream: they were stored and had gone when it looked."""

    at: float
    stream: str
    first: int
    last: int


class Sample(msgspec.Struct, frozen=True, tag="sample"):
    """Of one process, now and then: memory, open files, and what the broker counts for it."""

    at: float
    process: str
    pid: int
    rss_bytes: int
    files: int
    subscriptions: int = -1


class Lived(msgspec.Struct, frozen=True, tag="lived"):
    """A process started, became ready, or ended (with `code`)."""

    at: float
    process: str
    pid: int
    what: Literal["started", "ready", "ended"]
    code: int | None = None


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """The faults are over and the queue was looked at: how many messages REQUESTS holds, `after_s` later."""

    at: float
    after_s: float
    queued: int


Line = (
    Begun
    | Fault
    | Asked
    | Headed
    | Told
    | Over
    | Cancelled
    | Stored
    | Removed
    | Missed
    | Sample
    | Lived
    | Settled
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode(line: Line) -> bytes:
    """One line, with its end."""
    return _encoder.encode(line) + b"\n"


def read(path: Path) -> list[Line]:
    """A whole history. A last line that was cut off by a kill is left out. Raises msgspec.DecodeError, OSError."""
    lines = path.read_bytes().split(b"\n")
    return [_decoder.decode(line) for line in lines[:-1] if line]
