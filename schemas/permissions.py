"""Who may say what on the broker: the subjects that each role publishes and subscribes to, and nothing else.

A role gets what its code calls. What NATS cannot tell apart it cannot permit apart: whoever may end a request may
publish on `ctl`, so an edge could write a lease there; and all processes of a role share a key, so a worker could read
another worker's batches.

A permission does not bound reply addresses: the server answers to whatever subject a request names, so any user of an
account can make it put a PubAck, or a stored message, where the user may not publish (seen on nats-server 2.15.1). Our
own roles are trusted that far. Tenants are not: each has an account of its own, with nothing in it but what is imported
there, and an answer never leaves the account that asked.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from schemas import subjects
from schemas.streams import (
    BATCHES,
    BATCHES_BUCKET,
    CONFIG_BUCKET,
    COUNTS_BUCKET,
    DEAD,
    FILES,
    FILES_BUCKET,
    LEADER_BUCKET,
    MODELS_BUCKET,
    OUTPUT,
    RATES,
    REQUESTS,
    RESPONSES,
    batches_consumer,
    bucket_stream,
)

Role = Literal["edge", "scheduler", "worker", "admin", "observer"]
ROLES: tuple[Role, ...] = get_args(Role)

ANSWER_S = 60
"""For how long an answer to a request is permitted; a scheduler answers a cancel when END is stored, which in a cluster
may wait for an election."""

BUCKETS = (LEADER_BUCKET, MODELS_BUCKET, CONFIG_BUCKET, COUNTS_BUCKET, FILES_BUCKET, BATCHES_BUCKET)
STREAMS = (
    *(REQUESTS, OUTPUT, DEAD, RESPONSES, RATES, FILES, BATCHES),
    *(bucket_stream(bucket).name for bucket in BUCKETS),
)


class Permissions(NamedTuple):
    """What a user may publish and subscribe to. `answers`: it may also answer each request it gets, once."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


class Imports(NamedTuple):
    """What a tenant's account takes from that of Penstock, subject by subject under the same names.

    `services` are asked and answered; `streams` are only listened to.
    """

    services: tuple[str, ...]
    streams: tuple[str, ...]


def permissions_of(role: Role, *, inbox: str) -> Permissions:
    """Of a role's processes, whose replies come to `inbox` (a prefix)."""
    permitted = _PERMISSIONS[role]
    return permitted._replace(subscribe=(f"{inbox}.>", subjects.MICRO_ALL, *permitted.subscribe))


def imports_of(tenant: str) -> Imports:
    """Of a tenant that publishes requests itself: its requests and cancels, the live copies of its output, and the
    newest record of each subject of its logs.

    No consumers: the server takes one that names any subject of Penstock's account to deliver to (2.15.1); and a direct
    get of more than one message names what it wants in its body, where no permission looks. What a tenant misses on the
    live subjects it reads in END, or at an edge.
    """
    return Imports(
        services=(
            subjects.requests_of_tenant(tenant),
            subjects.cancels_of_tenant(tenant),
            subjects.js_direct_last(OUTPUT, subjects.output_of_tenant(tenant)),
        ),
        streams=(subjects.live_of_tenant(tenant),),
    )


def permissions_of_tenant(tenant: str) -> Permissions:
    """Of a tenant's user in the tenant's account."""
    services, streams = imports_of(tenant)
    return Permissions(services, (f"{subjects.INBOX}.>", *streams))


def _info(*streams: str) -> tuple[str, ...]:
    return tuple(subjects.js_stream("INFO", stream) for stream in streams)


def _last(*streams: str) -> tuple[str, ...]:
    return tuple(subjects.js_stream("MSG.GET", stream) for stream in streams)


def _read(*streams: str) -> tuple[str, ...]:
    return tuple(subjects.js_direct_get(stream) for stream in streams)


def _kv(*buckets: str) -> tuple[str, ...]:
    """Stored reads of whole buckets."""
    names = [bucket_stream(bucket).name for bucket in buckets]
    return *_last(*names), *_read(*names)


_EDGES = batches_consumer()

_EDGE = Permissions(
    publish=(
        # Requests, and what ends them.
        *(subjects.REQUESTS_ALL, subjects.CTL_ALL, subjects.CANCEL_ALL, subjects.EDGE),
        subjects.METRICS_ALL,
        # A message that asks to be traced to where its sender may not publish is not taken.
        subjects.HOPS_ALL,
        *_last(REQUESTS, OUTPUT),
        *_read(REQUESTS, OUTPUT),
        # What all edges agree on and count together.
        *(subjects.kv_all(CONFIG_BUCKET), subjects.kv_all(COUNTS_BUCKET), subjects.RATES_ALL),
        *_info(bucket_stream(CONFIG_BUCKET).name),
        *_kv(CONFIG_BUCKET, COUNTS_BUCKET),
        *_last(RATES),
        # Kept responses, files and batches.
        *(subjects.RESPONSES_ALL, subjects.FILES_ALL, subjects.BATCHES_ALL),
        *(subjects.kv_all(FILES_BUCKET), subjects.kv_all(BATCHES_BUCKET)),
        *_info(FILES),
        *_last(RESPONSES, FILES, BATCHES),
        *_read(FILES),
        *_kv(FILES_BUCKET, BATCHES_BUCKET),
        subjects.js_stream("MSG.DELETE", RESPONSES),
        subjects.js_stream("PURGE", FILES),
        subjects.js_consumer("MSG.NEXT", _EDGES.stream, _EDGES.name),
        *subjects.js_acks(_EDGES.stream, _EDGES.name),
    ),
    subscribe=(
        *(subjects.LEADER, subjects.EDGE, subjects.LIVE_ALL),
        *(subjects.METRICS_ALL, subjects.HOPS_ALL),
    ),
    answers=True,
)

_SCHEDULER = Permissions(
    publish=(
        *(subjects.LEADER, subjects.WORK_ALL, subjects.CANCEL_ALL, subjects.CTL_ALL),
        # It makes what is missing; it cannot change or delete what is there.
        *_info(*STREAMS),
        *(subjects.js_stream("CREATE", stream) for stream in STREAMS),
        subjects.js_consumer("INFO", _EDGES.stream, _EDGES.name),
        subjects.js_consumer("CREATE", _EDGES.stream, _EDGES.name),
        *(subjects.js_consumer(verb, REQUESTS, "*") for verb in ("INFO", "CREATE", "DELETE", "MSG.NEXT")),
        *subjects.js_acks(REQUESTS, "*"),
        *_last(REQUESTS, OUTPUT),
        *_read(REQUESTS, OUTPUT),
        subjects.js_stream("MSG.DELETE", REQUESTS),
        *(subjects.kv_all(LEADER_BUCKET), subjects.kv_all(MODELS_BUCKET)),
        *_kv(LEADER_BUCKET, MODELS_BUCKET),
    ),
    subscribe=(subjects.PULL, subjects.EDGE, subjects.CANCEL_ALL, subjects.kv_all(LEADER_BUCKET)),
    answers=True,
)

_WORKER = Permissions(
    publish=(
        *(subjects.PULL, subjects.CTL_ALL, subjects.TOK_ALL, subjects.DEAD_ALL),
        *_info(OUTPUT),
        *_last(OUTPUT),
        *_read(OUTPUT),
        *subjects.js_acks(REQUESTS, "*"),
    ),
    subscribe=(subjects.WORK_ALL, subjects.CANCEL_ALL, subjects.LEADER),
    answers=True,
)

_ADMIN = Permissions(
    # Streams, consumers, backups, dead letters and their redrive. Not the records of a log, and not the role of a
    # scheduler or worker.
    publish=(
        *(f"{subjects.JS_API}>", subjects.SNAPSHOTS, subjects.MICRO_ALL, subjects.REQUESTS_ALL),
        *(subjects.kv_all(bucket) for bucket in BUCKETS),
    ),
    subscribe=(subjects.ADVISORIES,),
)

_OBSERVER = Permissions(
    publish=(
        subjects.MICRO_ALL,
        f"{subjects.JS_API}INFO",
        *(f"{subjects.JS_API}STREAM.{verb}" for verb in ("NAMES", "LIST")),
        *_info(*STREAMS),
        *(subjects.js_consumer("INFO", stream, "*") for stream in STREAMS),
        *_last(REQUESTS, OUTPUT, DEAD),
        *_read(REQUESTS, OUTPUT, DEAD),
    ),
    # A tap sees what clients say and get: give its key to nobody who may not.
    subscribe=(
        *(subjects.REQUESTS_ALL, subjects.OUTPUT_ALL, subjects.LIVE_ALL, subjects.DEAD_ALL),
        *(subjects.PULL, subjects.WORK_ALL, subjects.LEADER, subjects.EDGE, subjects.CANCEL_ALL),
        subjects.ADVISORIES,
    ),
)

_PERMISSIONS: dict[Role, Permissions] = {
    "edge": _EDGE,
    "scheduler": _SCHEDULER,
    "worker": _WORKER,
    "admin": _ADMIN,
    "observer": _OBSERVER,
}
