"""What scheduler, workers and edges tell each other over core NATS: pulls, work, heartbeats, cancel hints.

All of it is soft state: any of it may be lost, and the next one heals it.

All but Work is JSON. Work is MessagePack, because it carries bodies that nobody between client and engine
has decoded: as bytes they pass through unchanged, whatever a direct publisher sent.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.ids import ANONYMOUS
from schemas.output import Cause
from schemas.requests import Klass, RequestMeta

Answer = Literal["accepted", "full", "draining", "mine", "done"]
"""What a worker says to an offered request: runs it; no slot; going away; already runs it (now with this delivery);
found its END."""

WORK_OVERHEAD_BYTES = 128 * 1024
"""Of a message to a worker, kept free for what stands beside the bodies: ~400 bytes for each of a batch of up to 64,
and headers of a direct publisher, of which the broker allows 64 KB per request. A body that does not fit into the rest
of the broker's largest message can be queued but never run, so edges do not take it."""


class ModelCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as a worker serves it. `context_tokens_max` bounds prompt + output. `adapters` are the names of further
    models that its workers run as variants of it (LoRA): a request names one, and is queued for this model."""

    key: str
    name: str
    engine: str
    context_tokens_max: int
    max_tokens_default: int
    adapters: list[str] = []


class Running(msgspec.Struct, frozen=True, array_like=True):
    """A request a worker holds, the ack subject of the delivery it holds it by, and its `RequestMeta.grace_s`.

    `started`: this attempt has made a token.
    """

    rid: str
    ack: str
    tenant: str = ANONYMOUS
    grace_s: float | None = None
    started: bool = True


class Pull(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's standing credit and heartbeat, sent on every change and every `pull_interval_s`.

    `free` slots are left after work message `work_seq` was handled: the scheduler takes off what it sent since.
    `steps` counts engine steps since the worker started. `running` is only in the periodic ones: all requests it holds.
    `leaving`: this worker goes away and takes nothing more.
    """

    worker: str
    model: ModelCard
    slots: int
    free: int
    work_seq: int
    steps: int
    running: list[Running] | None = None
    leaving: bool = False


class WorkItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request of a batch, with the delivery it is held by.

    `ctl_seq` is the sequence of the request's last ctl record (0: none, a first delivery): what a lease must expect.
    `age_s` is how old the message was when it was sent on, by the broker's clock: deadlines count from there.
    `klass` is where it was queued.
    """

    rid: str
    tenant: str
    ack: str
    attempt: int
    ctl_seq: int
    cause: Cause
    age_s: float
    meta: RequestMeta
    body: bytes
    klass: Klass = "standard"


class Work(msgspec.Struct, frozen=True):
    """A batch for one worker; `seq` counts the scheduler's messages to that worker. `trace` is the context of the batch
    (`schemas.trace`): attempts link to it. Empty: it is not traced."""

    seq: int
    items: list[WorkItem]
    trace: str = ""


class WorkReply(msgspec.Struct, frozen=True):
    """One answer per item of the batch, in its order."""

    answers: list[Answer]


class ModelState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as the leader sees it; `seen_age_s` since a worker last pulled for it, `idle` workers run nothing.

    `waiting` counts requests that no worker has yet, by class; of those that came in the last `waiting_age_s` it may
    miss some. `taken` counts those that workers took since the leader leads.
    """

    card: ModelCard
    workers: int
    slots: int
    free: int
    seen_age_s: float
    idle: int = 0
    waiting: dict[str, int] = {}
    waiting_age_s: float = 0.0
    taken: dict[str, int] = {}


class Leader(msgspec.Struct, frozen=True):
    """The leader's heartbeat, every `leader_interval_s`. A new `term` makes workers answer with full pulls.

    `queue_depth` counts requests in REQUESTS (waiting and running); `output_used` is the share of OUTPUT's bytes that
    is taken, 0 to 1: see the thresholds in `schemas.streams`.
    """

    scheduler: str
    term: int
    queue_depth: int
    models: list[ModelState]
    output_used: float = 0.0


class Reader(msgspec.Struct, frozen=True, array_like=True):
    """A client that reads a request at an edge; its `grace_s` counts if it is the last one to leave."""

    tenant: str
    rid: str
    grace_s: float | None


class EdgeBeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """An edge's heartbeat: who reads there now. The leader and the other edges listen.

    A `full` one, every `edge_interval_s`, lists all readers: whom it lists no more has left. One that is not full tells
    of readers that have just joined a request which others may read, too.
    """

    edge: str
    readers: list[Reader]
    full: bool = True


class Cancel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A hint that a request's END(cancelled) is stored: free the GPU and settle the message now.

    With `close` it is a wish: the leader writes that END first. Sent as a request, it is answered with the END that is
    in the log afterwards, which may be another one: what is finished stays finished.
    """

    reason: str = ""
    close: bool = False


_encoder = msgspec.json.Encoder()
_pull = msgspec.json.Decoder(Pull)
_leader = msgspec.json.Decoder(Leader)
_edge_beat = msgspec.json.Decoder(EdgeBeat)
_cancel = msgspec.json.Decoder(Cancel)
_reply = msgspec.json.Decoder(WorkReply)
_work_encoder = msgspec.msgpack.Encoder()
_work = msgspec.msgpack.Decoder(Work)


def encode(message: Pull | Leader | EdgeBeat | WorkReply | Cancel) -> bytes:
    """The JSON bytes of a message."""
    return _encoder.encode(message)


def decode_pull(data: bytes) -> Pull:
    """Raises msgspec.DecodeError for anything else."""
    return _pull.decode(data)


def decode_leader(data: bytes) -> Leader:
    """Raises msgspec.DecodeError for anything else."""
    return _leader.decode(data)


def decode_edge_beat(data: bytes) -> EdgeBeat:
    """Raises msgspec.DecodeError for anything else."""
    return _edge_beat.decode(data)


def decode_cancel(data: bytes) -> Cancel:
    """Raises msgspec.DecodeError for anything else; an empty message is a hint without a reason."""
    return _cancel.decode(data) if data else Cancel()


def decode_reply(data: bytes) -> WorkReply:
    """Raises msgspec.DecodeError for anything else."""
    return _reply.decode(data)


def encode_work(work: Work) -> bytes:
    """The MessagePack bytes of a batch."""
    return _work_encoder.encode(work)


def decode_work(data: bytes) -> Work:
    """Raises msgspec.DecodeError for anything else."""
    return _work.decode(data)
