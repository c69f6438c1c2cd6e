"""Everything that can happen to a worker, and everything it can ask for.

`key` is `<tenant>.<rid>`: rids are unique within a tenant only. `op` numbers publishes and reads over the life of the
worker, so that a late answer to an older one is told apart.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.dispatch import Answer, Pull, Work
from schemas.log import Entry
from schemas.output import CtlRecord
from workers.engines.base import EngineEvent, EngineRequest

Kind = Literal["lease", "append", "end", "failed", "handoff", "dead"]
"""What a publish stores: a tok record (append), one of the ctl records, or a dead letter in DEAD."""

Outcome = Literal["ended", "failed", "handed_off", "no_room", "fenced", "gave_up"]
"""How this worker's part in a request was over: END stored or found; given back after the engine raised; given back in
a drain; given back because OUTPUT is full; somebody else has it (or may have); nothing could be stored until long after
its deadline."""


class Offered(msgspec.Struct, frozen=True):
    """A batch arrived; the answers go to `reply`. `traces`: for the requests that are traced, by key, where an attempt
    stands in its request's trace; the attempt's leases repeat it."""

    work: Work
    reply: str
    traces: dict[str, str] = {}


class Stored(msgspec.Struct, frozen=True, gc=False):
    """The broker stored publish `op` at stream sequence `seq`."""

    key: str
    op: int
    seq: int


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The broker refused publish `op`. With 10071, `last_seq` is the last sequence of the ctl subject (0: unknown)."""

    key: str
    op: int
    err_code: int
    last_seq: int = 0


class CtlRead(msgspec.Struct, frozen=True):
    """The last ctl record of a request, from the stream's leader; None: there is no log."""

    key: str
    op: int
    seq: int
    record: CtlRecord | None


class LogRead(msgspec.Struct, frozen=True):
    """A request's log up to the sequence that was asked for, in stream order."""

    key: str
    op: int
    entries: list[Entry]


class ReadFailed(msgspec.Struct, frozen=True, gc=False):
    """A read came back without an answer, or with something that is no record (`is_unreadable`)."""

    key: str
    op: int
    is_unreadable: bool = False


class CancelHinted(msgspec.Struct, frozen=True, gc=False):
    """Somebody says that this request has its END. Only a hint: the log decides."""

    key: str


class LeaderSeen(msgspec.Struct, frozen=True, gc=False):
    """The leading scheduler's heartbeat; `output_used` is the share of OUTPUT's bytes that is taken."""

    term: int
    output_used: float = 0.0


class ConnectionChanged(msgspec.Struct, frozen=True, gc=False):
    """The connection to the broker was lost, or is back."""

    connected: bool


class EngineProgress(msgspec.Struct, frozen=True, gc=False):
    """The engine's step counter and when it last moved, in the seconds of `now`."""

    steps: int
    last_step_at: float


class Drain(msgspec.Struct, frozen=True, gc=False):
    """Take nothing more and finish what runs."""


class HandOff(msgspec.Struct, frozen=True, gc=False):
    """The time to drain is over: give back what still runs, to be continued elsewhere."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """`next_deadline()` was reached."""


AttemptEvent = EngineEvent | Stored | Refused | CtlRead | LogRead | ReadFailed | CancelHinted
"""What concerns one request."""

Event = AttemptEvent | Offered | LeaderSeen | ConnectionChanged | EngineProgress | Drain | HandOff | Tick


class Reply(msgspec.Struct, frozen=True):
    """Answer a batch: one answer per item, in its order."""

    to: str
    answers: list[Answer]


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Store `body` at `subject` if the last sequence of `fence` is `expect`, and feed the answer back as `op`.

    `fence` is the request's ctl subject: for a ctl record that is `subject` itself (a CAS), for a tok record it is what
    rejects an attempt that lost its lease. A dead letter is a CAS on its own subject, and has headers of its own. A
    retry is the same action again.
    """

    key: str
    op: int
    kind: Kind
    subject: str
    fence: str
    expect: int
    body: bytes
    headers: dict[str, str] | None = None


class LetterLost(msgspec.Struct, frozen=True, gc=False):
    """The dead letter of a poisoned request could not be stored, in `tries` tries; its END goes out without.

    `err_code` is the broker's last word, 0 if it said none.
    """

    key: str
    tries: int
    err_code: int


class Forget(msgspec.Struct, frozen=True, gc=False):
    """The answer to publish `op` does not matter any more."""

    op: int


class StartEngine(msgspec.Struct, frozen=True):
    """Submit a request to the engine. It stands after its lease: a crash must leave a trace."""

    request: EngineRequest


class StopEngine(msgspec.Struct, frozen=True, gc=False):
    """Cancel a request's run."""

    key: str


class ReadCtl(msgspec.Struct, frozen=True, gc=False):
    """Read the last ctl record from the stream's leader."""

    key: str
    op: int
    tenant: str
    rid: str


class ReadLog(msgspec.Struct, frozen=True, gc=False):
    """Read a request's log up to and including `upto_seq`."""

    key: str
    op: int
    tenant: str
    rid: str
    upto_seq: int


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Settle a delivery: its END is stored."""

    ack: str


class Nak(msgspec.Struct, frozen=True, gc=False):
    """Give a delivery back, to be delivered again after `delay_s`."""

    ack: str
    delay_s: float


class Progress(msgspec.Struct, frozen=True, gc=False):
    """Tell the broker that a delivery is being worked on."""

    ack: str


class SendPull(msgspec.Struct, frozen=True):
    """Tell the scheduler what this worker can take."""

    pull: Pull


class EngineHung(msgspec.Struct, frozen=True, gc=False):
    """Requests run and the engine has not stepped for `step_s_max`: end this process, others go on with its work."""

    step_s_max: float


class Settled(msgspec.Struct, frozen=True, gc=False):
    """This worker's part in a request is over, after `tokens` tokens: for logs, metrics and traces. The engine has made
    `generated` of them here, and `wasted` more that did not get into the log, as far as is known. Its first tokens came
    at `first_token_at`, the last ones so far at `last_token_at`; None: none came."""

    key: str
    outcome: Outcome
    tokens: int
    generated: int = 0
    wasted: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None


Action = (
    Publish
    | LetterLost
    | Forget
    | StartEngine
    | StopEngine
    | ReadCtl
    | ReadLog
    | Ack
    | Nak
    | Progress
    | Reply
    | SendPull
    | EngineHung
    | Settled
)
