"""Everything that can happen to the core, and everything it can ask for."""

from __future__ import annotations

from math import inf

import msgspec

from scheduler.quota_events import QuotaAction, QuotaEvent
from scheduler.watchdog import Remedy
from schemas.dispatch import Answer, EdgeBeat, Leader, ModelCard, Pull, Work
from schemas.ids import ModelKey, RequestId, TenantKey, WorkerId
from schemas.log import Entry
from schemas.output import End
from schemas.requests import InvalidMeta, Klass, RequestMeta
from schemas.subjects import RequestSubject


class Delivered(msgspec.Struct, frozen=True):
    """The consumer of `klass` and `model` delivered a message, for the `attempt`-th time.

    `subject` is None where the message's subject names no request; `age_s` is by the broker's time of the message.
    """

    klass: Klass
    model: ModelKey
    subject: RequestSubject | None
    ack: str
    stream_seq: int
    attempt: int
    age_s: float
    meta: RequestMeta | InvalidMeta
    body: bytes


class FetchEnded(msgspec.Struct, frozen=True):
    """A fetch of a consumer ended with `unused` credit."""

    klass: Klass
    model: ModelKey
    unused: int


class ConsumersReady(msgspec.Struct, frozen=True):
    """The consumers of `model` exist: it may be fetched. The youngest was made `age_s` ago."""

    model: ModelKey
    age_s: float = inf


class ConsumerGone(msgspec.Struct, frozen=True):
    """A fetch ended because a consumer of `model` is not there any more."""

    model: ModelKey


class ConsumerSeen(msgspec.Struct, frozen=True):
    """Messages that a consumer has yet to deliver for the first time; None: there is no such consumer."""

    klass: Klass
    model: ModelKey
    undelivered: int | None


class PullReceived(msgspec.Struct, frozen=True):
    """A worker's pull."""

    pull: Pull


class Answered(msgspec.Struct, frozen=True):
    """A worker's answer to the offer `seq`: one per item."""

    worker: WorkerId
    seq: int
    answers: list[Answer]


class OfferFailed(msgspec.Struct, frozen=True):
    """Nobody listens on the worker's subject, the offer could not be sent, or its answer could not be read."""

    worker: WorkerId
    seq: int


class ProbeAnswered(msgspec.Struct, frozen=True):
    """What a probe found. `alive` False: no responders, the worker's connection is gone."""

    worker: WorkerId
    alive: bool


class CtlRead(msgspec.Struct, frozen=True):
    """The newest ctl record of a request, from the stream leader; None: there is none."""

    tenant: TenantKey
    rid: RequestId
    entry: Entry | None


class EndWritten(msgspec.Struct, frozen=True):
    """The request's log holds an END."""

    tenant: TenantKey
    rid: RequestId


class CallFailed(msgspec.Struct, frozen=True):
    """The broker did not answer a ReadCtl, ReadHistory, Close or Cancel: what became of it is not known."""

    tenant: TenantKey
    rid: RequestId


class CloseRefused(msgspec.Struct, frozen=True):
    """OUTPUT is full: a Close or Cancel was not stored."""

    tenant: TenantKey
    rid: RequestId


class HistoryRead(msgspec.Struct, frozen=True):
    """Every ctl record of a request, and the sequence of its last tok record (0: it has none)."""

    tenant: TenantKey
    rid: RequestId
    entries: list[Entry]
    tok_seq: int


class CancelHinted(msgspec.Struct, frozen=True):
    """Somebody says that the request's END is stored."""

    tenant: TenantKey
    rid: RequestId


class CancelWished(msgspec.Struct, frozen=True):
    """Somebody wants the request cancelled, and to be told its END at the subject `reply_to` ("": no answer)."""

    tenant: TenantKey
    rid: RequestId
    reason: str
    reply_to: str


class CancelOver(msgspec.Struct, frozen=True):
    """A Cancel or DeleteQueued is over, however it ended."""

    tenant: TenantKey
    rid: RequestId


class EdgeHeard(msgspec.Struct, frozen=True):
    """An edge's heartbeat."""

    beat: EdgeBeat


class KnownModel(msgspec.Struct, frozen=True):
    """A model that an earlier leader saw, `seen_age_s` ago."""

    card: ModelCard
    seen_age_s: float


class BecameLeader(msgspec.Struct, frozen=True):
    """This scheduler leads from now on."""

    term: int
    models: list[KnownModel]


class LostLeadership(msgspec.Struct, frozen=True):
    """Another scheduler may lead from now on."""


class ConnectionChanged(msgspec.Struct, frozen=True):
    """The connection to the broker came or went. A core starts without one."""

    connected: bool


class QueueDepth(msgspec.Struct, frozen=True):
    """Requests in REQUESTS, waiting and running."""

    requests: int


class OutputUsed(msgspec.Struct, frozen=True):
    """The share of OUTPUT's bytes that is taken, 0 to 1."""

    share: float


class Tick(msgspec.Struct, frozen=True):
    """The deadline the core named has come."""


Event = (
    Delivered
    | FetchEnded
    | ConsumersReady
    | ConsumerGone
    | ConsumerSeen
    | PullReceived
    | Answered
    | OfferFailed
    | ProbeAnswered
    | CtlRead
    | EndWritten
    | CallFailed
    | CloseRefused
    | HistoryRead
    | CancelHinted
    | CancelWished
    | CancelOver
    | EdgeHeard
    | BecameLeader
    | LostLeadership
    | ConnectionChanged
    | QueueDepth
    | OutputUsed
    | QuotaEvent
    | Tick
)


class Fetch(msgspec.Struct, frozen=True):
    """Ask a consumer for up to `batch` messages within `expires_s`."""

    klass: Klass
    model: ModelKey
    batch: int
    expires_s: float


class EnsureConsumers(msgspec.Struct, frozen=True):
    """Create the consumers of a model where they are missing, then say ConsumersReady. Asked again if nothing comes.
    The one of class `remake` is deleted first."""

    model: ModelKey
    remake: Klass | None = None


class StopFetching(msgspec.Struct, frozen=True):
    """Stop listening to the consumers of a model, so that the broker drops its open fetches. The consumers stay."""

    model: ModelKey


class Offer(msgspec.Struct, frozen=True):
    """Send a batch to a worker; say Answered or OfferFailed. The core keeps the time-out."""

    worker: WorkerId
    work: Work


class ForgetOffer(msgspec.Struct, frozen=True):
    """The offer timed out: an answer is not wanted any more."""

    worker: WorkerId
    seq: int


class Ack(msgspec.Struct, frozen=True):
    """Settle a delivery for good. Only ever with the request's END seen (or for what is no request at all)."""

    ack: str


class Nak(msgspec.Struct, frozen=True):
    """Give a delivery back, to be delivered again after `delay_s`."""

    ack: str
    delay_s: float


class Progress(msgspec.Struct, frozen=True):
    """Restart the ack wait of a delivery that is held here."""

    ack: str


class ReadCtl(msgspec.Struct, frozen=True):
    """Read the newest ctl record from the stream leader; say CtlRead or CallFailed."""

    tenant: TenantKey
    rid: RequestId


class ReadHistory(msgspec.Struct, frozen=True):
    """Read all ctl records and the last tok's sequence; say HistoryRead or CallFailed."""

    tenant: TenantKey
    rid: RequestId


class Close(msgspec.Struct, frozen=True):
    """Write `end` unless there is an END already; say EndWritten or CallFailed.

    `expect`: only if this is still the sequence of the last ctl record (0: none); None: whatever it is.
    """

    tenant: TenantKey
    rid: RequestId
    end: End
    expect: int | None


class Cancel(msgspec.Struct, frozen=True):
    """Write `end` unless there is an END already, tell everybody by a cancel hint (this scheduler hears it, too), and
    send the END that is in the log to `reply_to`. Say EndWritten or CallFailed, then CancelOver.

    Unless it `is_known`, a request that is neither queued nor in the log gets no END, and an empty answer.
    """

    tenant: TenantKey
    rid: RequestId
    end: End
    is_known: bool
    reply_to: str


class DeleteQueued(msgspec.Struct, frozen=True):
    """Delete the request's message wherever it is queued, after seeing its END: nobody here knows who holds it. Say
    CancelOver."""

    tenant: TenantKey
    rid: RequestId


class Probe(msgspec.Struct, frozen=True):
    """Send an empty message to a worker's subject; say ProbeAnswered if anything comes back."""

    worker: WorkerId


class WorkerGone(msgspec.Struct, frozen=True):
    """For the log: a worker is taken for dead; its `requests` are given back."""

    worker: WorkerId
    reason: str
    requests: int


class ConsumerStuck(msgspec.Struct, frozen=True):
    """For the log: a consumer had messages and credit and delivered nothing, for the `times`-th time here."""

    klass: Klass
    model: ModelKey
    remedy: Remedy
    times: int


class OutputFull(msgspec.Struct, frozen=True):
    """For the log: OUTPUT takes no END any more (`is_full`), or takes them again after having refused `refused`."""

    is_full: bool
    refused: int


class Announce(msgspec.Struct, frozen=True):
    """Publish the leader's heartbeat."""

    leader: Leader


class RememberModel(msgspec.Struct, frozen=True):
    """Store that a model was seen just now, for leaders to come."""

    card: ModelCard


Action = (
    Fetch
    | EnsureConsumers
    | StopFetching
    | Offer
    | ForgetOffer
    | Ack
    | Nak
    | Progress
    | ReadCtl
    | ReadHistory
    | Close
    | Cancel
    | DeleteQueued
    | Probe
    | WorkerGone
    | ConsumerStuck
    | OutputFull
    | Announce
    | RememberModel
    | QuotaAction
)
