"""JetStream streams, consumers and buckets as data, with the reason beside each number.

A config is never read from a server, changed and written back: client libraries drop the fields they do not know.
These tables are the truth; the bus creates what is missing and refuses to start on what differs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from schemas import subjects
from schemas.ids import ModelKey
from schemas.requests import CLASSES, Klass

REQUESTS = "REQUESTS"
OUTPUT = "OUTPUT"
DEAD = "DEAD"
RATES = "RATES"
RESPONSES = "RESPONSES"
FILES = "FILES"
BATCHES = "BATCHES"
LEADER_BUCKET = "penstock_leader"
MODELS_BUCKET = "penstock_models"
CONFIG_BUCKET = "penstock_config"
"""What all edges must agree on: the secret that makes rids of idempotency keys."""
COUNTS_BUCKET = "penstock_counts"
"""What all edges count together: see `edge.counts`."""

FILES_BUCKET = "penstock_files"
"""What is told of a file besides its content."""
BATCHES_BUCKET = "penstock_batches"
"""How batches of requests stand."""

OUTPUT_REFUSE_AT = 0.80
OUTPUT_HOLD_AT = 0.90
OUTPUT_END_AT = 0.95
"""Shares of OUTPUT's bytes that are taken. From the first on edges refuse new requests, from the second on nothing is
dispatched, from the third on workers append no tokens and end what runs. What is left is for ctl records: without room
for END a full stream would stay full."""

MS_PER_S = 1_000
NS_PER_S = 1_000_000_000

BUCKET_BYTES_MAX = 16 << 20
"""The leader's key and a card of some hundred bytes per model: far below. Of files and batches, with some hundred bytes
each, it is a bound on their number: tens of thousands."""

FILES_REFUSE_AT = 0.80
"""The share of FILES from which on no file and no batch is taken: what is left is for results."""

BATCHES_OPEN_MAX = 1000
"""Batches that wait or run; one more is refused."""

BATCH_ACK_WAIT_S = 5.0
"""A batch whose runner was not heard of for this long is given to another one."""

RATE_WINDOW_S_MAX = 3600
"""The longest window of a rate limit."""

RATES_BYTES_MAX = 32 << 20
"""About 200,000 counters; each of a caller's windows is two, and those of past windows are the first to go."""

COUNTS_BYTES_MAX = 64 << 20
"""Some 300,000 keys and addresses that asked within `COUNTS_TTL_S`."""

COUNTS_TTL_S = 600.0
"""A count that no edge has told for this long is nobody's; edges tell theirs three times as often."""

DUPLICATE_WINDOW_S = 120
"""Covers the retries of one publish; what it forgets, `max_msgs_per_subject: 1` still refuses while it is queued."""


class StreamSpec(NamedTuple):
    """A stream as JetStream's create call takes it; durations in nanoseconds."""

    name: str
    config: dict[str, Any]


class ConsumerSpec(NamedTuple):
    """A durable pull consumer as JetStream's create call takes it."""

    stream: str
    name: str
    config: dict[str, Any]


def requests_stream(*, queue_max: int, queue_bytes_max: int, replicas: int = 1) -> StreamSpec:
    """The queue. Bounded by the broker itself: past `queue_max` or `queue_bytes_max` a publish gets 10077."""
    return StreamSpec(
        REQUESTS,
        {
            "name": REQUESTS,
            "subjects": [subjects.REQUESTS_ALL],
            "retention": "workqueue",
            "storage": "file",
            "discard": "new",  # a full queue refuses; it never drops what was accepted
            "max_msgs": queue_max,
            "max_bytes": queue_bytes_max,
            "max_msgs_per_subject": 1,  # one message per request while it is queued or running …
            "discard_new_per_subject": True,  # … also past the duplicate window and after a restart
            "duplicate_window": DUPLICATE_WINDOW_S * NS_PER_S,
            "allow_direct": True,
            "num_replicas": replicas,
        },
    )


def output_stream(
    *, output_bytes_max: int, retention_s: float, first_seq: int, memory: bool = False, replicas: int = 1
) -> StreamSpec:
    """Every request's output log. `retention_s` >= the longest request + the time its result stays readable.

    `first_seq` comes from the clock when the stream is made, so that sequences never repeat after a loss: an old lease
    must not equal a new one. It is not compared later, a stream has it only at birth.
    """
    return StreamSpec(
        OUTPUT,
        {
            "name": OUTPUT,
            "subjects": [subjects.OUTPUT_ALL],
            "retention": "limits",
            "storage": "memory" if memory else "file",
            "discard": "new",  # discarding old would take the lease of a running request first
            "max_bytes": output_bytes_max,
            "max_age": int(retention_s * NS_PER_S),
            "duplicate_window": NS_PER_S,  # records carry no Msg-Id: CAS and offsets tell repeats
            "allow_direct": True,
            "republish": {"src": subjects.OUTPUT_ALL, "dest": subjects.LIVE_ALL},
            "first_seq": first_seq,
            "num_replicas": replicas,
        },
    )


def dead_stream(*, dead_bytes_max: int, dead_ttl_s: float, replicas: int = 1) -> StreamSpec:
    """Poisoned requests, for as long as somebody may want to look at them or send them again."""
    return StreamSpec(
        DEAD,
        {
            "name": DEAD,
            "subjects": [subjects.DEAD_ALL],
            "retention": "limits",
            "storage": "file",
            "discard": "old",  # a flood of poison must not keep later poison from being recorded
            "max_bytes": dead_bytes_max,
            "max_age": int(dead_ttl_s * NS_PER_S),
            "max_msgs_per_subject": 1,
            "duplicate_window": NS_PER_S,  # a letter is written once by CAS on its subject
            "allow_direct": True,
            "num_replicas": replicas,
        },
    )


def responses_stream(*, responses_bytes_max: int, retention_s: float, replicas: int = 1) -> StreamSpec:
    """What was asked for in responses that are kept: a record is stored before its request, and with OUTPUT's
    `retention_s` it is there for as long as any result has to be."""
    return StreamSpec(
        RESPONSES,
        {
            "name": RESPONSES,
            "subjects": [subjects.RESPONSES_ALL],
            "retention": "limits",
            "storage": "file",
            "discard": "new",  # a full store refuses; it never drops what a client was told is kept
            "max_bytes": responses_bytes_max,
            "max_age": int(retention_s * NS_PER_S),
            "max_msgs_per_subject": 1,
            "duplicate_window": NS_PER_S,  # a record is written once by CAS on its subject
            "allow_direct": True,
            "num_replicas": replicas,
        },
    )


def files_stream(*, files_bytes_max: int, file_ttl_s: float, replicas: int = 1) -> StreamSpec:
    """The contents of files: the messages of one content are its parts, in stream order."""
    return StreamSpec(
        FILES,
        {
            "name": FILES,
            "subjects": [subjects.FILES_ALL],
            "retention": "limits",
            "storage": "file",
            "discard": "new",  # what a client was told is stored stays until it expires
            "max_bytes": files_bytes_max,
            "max_age": int(file_ttl_s * NS_PER_S),
            "max_msgs_per_subject": 1,  # one part, or one result of a line, under one number …
            "discard_new_per_subject": True,  # … and the first one stands: a second try changes nothing
            "duplicate_window": int(min(file_ttl_s, 1.0) * NS_PER_S),  # parts carry no Msg-Id
            "allow_direct": True,
            "num_replicas": replicas,
        },
    )


def batches_stream(*, replicas: int = 1) -> StreamSpec:
    """Batches that have not ended: one message each, which whoever runs it holds and does not ack before its end."""
    return StreamSpec(
        BATCHES,
        {
            "name": BATCHES,
            "subjects": [subjects.BATCHES_ALL],
            "retention": "workqueue",
            "storage": "file",
            "discard": "new",
            "max_msgs": BATCHES_OPEN_MAX,
            "max_bytes": BUCKET_BYTES_MAX,
            "max_msgs_per_subject": 1,
            "discard_new_per_subject": True,
            "duplicate_window": NS_PER_S,  # a batch's message carries no Msg-Id
            "allow_direct": True,
            "num_replicas": replicas,
        },
    )


def rates_stream(*, replicas: int = 1) -> StreamSpec:
    """Counters of the rate limits: what is published adds to its subject's number, and the PubAck tells the sum.

    In memory: after a loss of the broker everybody begins a new window, which is less harm than a write to a disk for
    every request. No setting is in here, so that another window needs no other stream. The server refuses counters
    together with `discard: new`, a retention but limits, and TTLs of messages.
    """
    return StreamSpec(
        RATES,
        {
            "name": RATES,
            "subjects": [subjects.RATES_ALL],
            "retention": "limits",
            "storage": "memory",
            "discard": "old",
            "allow_msg_counter": True,
            "max_msgs_per_subject": 1,  # only the sum counts; it is as old as its last increment
            "max_bytes": RATES_BYTES_MAX,
            "max_age": 2 * RATE_WINDOW_S_MAX * NS_PER_S,  # a window counts until the end of the next one
            "duplicate_window": NS_PER_S,  # increments carry no Msg-Id
            "allow_direct": True,
            "num_replicas": replicas,
        },
    )


def counts_stream(*, replicas: int = 1) -> StreamSpec:
    """The bucket of what all edges count together."""
    return bucket_stream(COUNTS_BUCKET, ttl_s=COUNTS_TTL_S, replicas=replicas, bytes_max=COUNTS_BYTES_MAX)


def bucket_stream(
    bucket: str, *, ttl_s: float = 0.0, replicas: int = 1, bytes_max: int = BUCKET_BYTES_MAX
) -> StreamSpec:
    """A key-value bucket, laid out as every NATS client does it, so that theirs can look into ours.

    `ttl_s`: how long a value lives, 0 = for ever.
    """
    name = f"KV_{bucket}"
    return StreamSpec(
        name,
        {
            "name": name,
            "subjects": [subjects.kv_all(bucket)],
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": 1,  # only the newest value counts
            "max_bytes": bytes_max,
            "max_age": int(ttl_s * NS_PER_S),
            "duplicate_window": int(min(ttl_s or DUPLICATE_WINDOW_S, DUPLICATE_WINDOW_S) * NS_PER_S),
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "num_replicas": replicas,
        },
    )


ONLY_AT_BIRTH = frozenset({"first_seq"})
"""Fields of a stream's config that are not compared with a running stream."""


def requests_consumer(klass: Klass, model: ModelKey, *, ack_wait_s: float, queue_max: int) -> ConsumerSpec:
    """The durable of one class and model: what schedulers pull from and an autoscaler reads."""
    name = f"{klass}-{model}"
    return ConsumerSpec(
        REQUESTS,
        name,
        {
            "durable_name": name,
            "filter_subject": subjects.requests_of(klass, model),
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait_s * NS_PER_S),
            "max_deliver": -1,  # a delivery limit strands the message in the stream for ever
            "max_ack_pending": queue_max,  # it counts running requests too, and raising it live is risky
        },
    )


def consumers_of(model: ModelKey, *, ack_wait_s: float, queue_max: int) -> list[ConsumerSpec]:
    """All durables of a model, one per class."""
    return [requests_consumer(klass, model, ack_wait_s=ack_wait_s, queue_max=queue_max) for klass in CLASSES]


def batches_consumer() -> ConsumerSpec:
    """The durable that edges pull batches from."""
    return ConsumerSpec(
        BATCHES,
        "edges",
        {
            "durable_name": "edges",
            "ack_policy": "explicit",
            "ack_wait": int(BATCH_ACK_WAIT_S * NS_PER_S),
            "max_deliver": -1,  # a delivery limit strands the message in the stream for ever
            "max_ack_pending": BATCHES_OPEN_MAX,
        },
    )
