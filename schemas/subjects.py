"""Every subject, built and parsed here and nowhere else.

Tokens are checked when a subject is built: a `*` in a subscribe would read another tenant's output, and a subject of
5,000 bytes makes the server close the connection for good (both seen on nats-server 2.15.1).
"""

from __future__ import annotations

from typing import NamedTuple

from schemas.ids import ModelKey, RequestId, TenantKey, is_key, is_request_id

ROOT = "llm.v1"

REQUESTS_NAME = f"{ROOT}.req"
REQUEST_TEMPLATE = f"{REQUESTS_NAME}.<class>.<model>.<tenant>.<rid>"
"""How traces call the subjects of requests: each has its own."""

REQUESTS_ALL = f"{ROOT}.req.>"
OUTPUT_ALL = f"{ROOT}.out.>"
LIVE_ALL = f"{ROOT}.live.>"
CANCEL_ALL = f"{ROOT}.cancel.*.*"

DEAD_ALL = f"{ROOT}.dead.>"
RATES_ALL = f"{ROOT}.rate.*"
RESPONSES_ALL = f"{ROOT}.response.>"
FILES_ALL = f"{ROOT}.file.>"
BATCHES_ALL = f"{ROOT}.batch.>"

CTL_ALL = f"{ROOT}.out.*.*.ctl"
TOK_ALL = f"{ROOT}.out.*.*.tok"
WORK_ALL = f"{ROOT}.work.*"

PULL = f"{ROOT}.pull"
LEADER = f"{ROOT}.leader"
EDGE = f"{ROOT}.edge"


class RequestSubject(NamedTuple):
    """The parts of a request's subject, as `parse_request` finds them."""

    klass: str
    model: ModelKey
    tenant: TenantKey
    rid: RequestId


def request(klass: str, model: str, tenant: str, rid: str) -> str:
    """Where a request is published: stream REQUESTS."""
    return f"{ROOT}.req.{_key(klass)}.{_key(model)}.{_key(tenant)}.{_rid(rid)}"


def parse_request(subject: str) -> RequestSubject | None:
    """The parts of a request's subject, or None if it is none (a direct publisher can send anything)."""
    parts = subject.split(".")
    if len(parts) != 7 or not subject.startswith(f"{ROOT}.req."):
        return None
    klass, model, tenant, rid = parts[3:]
    if not (is_key(klass) and is_key(model) and is_key(tenant) and is_request_id(rid)):
        return None
    return RequestSubject(klass, ModelKey(model), TenantKey(tenant), RequestId(rid))


def request_of_any_model(tenant: str, rid: str) -> str:
    """Matches the one message of a request wherever it is queued."""
    return f"{ROOT}.req.*.*.{_key(tenant)}.{_rid(rid)}"


def requests_of(klass: str, model: str) -> str:
    """What the durable consumer of one class and model filters on."""
    return f"{ROOT}.req.{_key(klass)}.{_key(model)}.>"


def requests_of_model(model: str) -> str:
    """Matches every request for a model."""
    return f"{ROOT}.req.*.{_key(model)}.>"


def requests_of_tenant(tenant: str) -> str:
    """Matches every request of a tenant."""
    return f"{ROOT}.req.*.*.{_key(tenant)}.*"


def output_ctl(tenant: str, rid: str) -> str:
    """Leases, hand-offs and END of a request: the one chain that fences."""
    return f"{ROOT}.out.{_key(tenant)}.{_rid(rid)}.ctl"


def output_tok(tenant: str, rid: str) -> str:
    """Token records of a request."""
    return f"{ROOT}.out.{_key(tenant)}.{_rid(rid)}.tok"


def output_log(tenant: str, rid: str) -> str:
    """Matches every record of a request's output log."""
    return f"{ROOT}.out.{_key(tenant)}.{_rid(rid)}.*"


def is_ctl(subject: str) -> bool:
    """Whether a subject of a log, or of a live copy of it, is the one that carries ctl records."""
    return subject.endswith(".ctl")


def live(tenant: str, rid: str) -> str:
    """Matches the live copies (RePublish) of a request's records."""
    return f"{ROOT}.live.{_key(tenant)}.{_rid(rid)}.*"


def live_ctl(tenant: str, rid: str) -> str:
    """The live copies of a request's ctl records alone."""
    return f"{ROOT}.live.{_key(tenant)}.{_rid(rid)}.ctl"


def live_of_tenant(tenant: str) -> str:
    """Matches the live copies of all of a tenant's records."""
    return f"{ROOT}.live.{_key(tenant)}.>"


def output_of_tenant(tenant: str) -> str:
    """Matches every record of every log of a tenant."""
    return f"{ROOT}.out.{_key(tenant)}.*.*"


def work(worker: str) -> str:
    """Where a worker takes batches: request/reply."""
    return f"{ROOT}.work.{_key(worker)}"


def cancel(tenant: str, rid: str) -> str:
    """The hint that a request has been cancelled."""
    return f"{ROOT}.cancel.{_key(tenant)}.{_rid(rid)}"


def cancels_of_tenant(tenant: str) -> str:
    """Matches the hints for every request of a tenant."""
    return f"{ROOT}.cancel.{_key(tenant)}.*"


def parse_cancel(subject: str) -> tuple[TenantKey, RequestId] | None:
    """Tenant and rid of a cancel subject, or None if it is none."""
    parts = subject.split(".")
    if len(parts) != 5 or not is_key(parts[3]) or not is_request_id(parts[4]):
        return None
    return TenantKey(parts[3]), RequestId(parts[4])


def dead(model: str, tenant: str, rid: str) -> str:
    """Where a poisoned request is kept: stream DEAD."""
    return f"{ROOT}.dead.{_key(model)}.{_key(tenant)}.{_rid(rid)}"


def dead_of_any_model(rid: str) -> str:
    """Matches the dead letters of a rid."""
    return f"{ROOT}.dead.*.*.{_rid(rid)}"


def rate(counter: str) -> str:
    """Where one counter of the rate limits is kept: stream RATES."""
    return f"{ROOT}.rate.{_key(counter)}"


def response(tenant: str, rid: str) -> str:
    """Where the record of a stored response is kept: stream RESPONSES."""
    return f"{ROOT}.response.{_key(tenant)}.{_rid(rid)}"


def file_part(tenant: str, content: str, number: int) -> str:
    """One part of a file's content, or the result of one line of a batch: stream FILES."""
    return f"{ROOT}.file.{_key(tenant)}.{_key(content)}.{number}"


def file_parts(tenant: str, content: str) -> str:
    """Matches every part of a file's content."""
    return f"{ROOT}.file.{_key(tenant)}.{_key(content)}.*"


def part_number(subject: str) -> int:
    """Which part a subject that `file_part` has built is."""
    return int(subject.rpartition(".")[2])


def batch(tenant: str, batch_id: str) -> str:
    """The work to run a batch of requests from a file: stream BATCHES."""
    return f"{ROOT}.batch.{_key(tenant)}.{_key(batch_id)}"


METRICS_ALL = f"{ROOT}.metrics.edge.*"


def edge_metrics(address: str) -> str:
    """Where the edges that share an address are asked for their metrics."""
    return f"{ROOT}.metrics.edge.{_key(address)}"


HOPS_ALL = f"{ROOT}.hops.*"


def hops(edge: str) -> str:
    """Where servers tell an edge of the messages of its traced requests that they passed on."""
    return f"{ROOT}.hops.{_key(edge)}"


MICRO_ALL = "$SRV.>"
"""What the tools of NATS ask services."""


def micro(verb: str, *whom: str) -> str:
    """Where they ask all services, those of a name, or one instance of a name: `verb` is PING, INFO or STATS."""
    return ".".join(["$SRV", verb, *map(_key, whom)])


def micro_verb(subject: str) -> str:
    """The verb of a subject that `micro` has built."""
    return subject.split(".", 2)[1]


# The JetStream API and acknowledgements (subjects of the server, not ours).

JS_API = "$JS.API."
"""What every call of the JetStream API starts with."""

JS_ACK = "$JS.ACK."
"""What every ack subject starts with."""


def js_ack(stream: str, consumer: str) -> str:
    """What the ack subjects of one consumer start with; the numbers that `parse_ack` finds follow."""
    return f"{JS_ACK}{stream}.{consumer}."


def js_stream(verb: str, stream: str) -> str:
    """`STREAM.<verb>`: CREATE, UPDATE, INFO, DELETE, PURGE; also `MSG.GET` and `MSG.DELETE`."""
    return f"{JS_API}STREAM.{verb}.{stream}"


def js_consumer(verb: str, stream: str, consumer: str) -> str:
    """`CONSUMER.<verb>`: CREATE, INFO, DELETE, or `MSG.NEXT` to pull."""
    return f"{JS_API}CONSUMER.{verb}.{stream}.{consumer}"


def js_direct_get(stream: str) -> str:
    """Direct get: answered by any replica, so never trusted for a negative answer."""
    return f"{JS_API}DIRECT.GET.{stream}"


def js_direct_last(stream: str, subject: str) -> str:
    """Direct get of the newest message on one subject, which is in the call's own: so it can be permitted by itself."""
    return f"{js_direct_get(stream)}.{subject}"


def js_acks(stream: str, consumer: str) -> tuple[str, str]:
    """Matches all ack subjects of a consumer (or, with `*`, of a stream's) in the two forms that `parse_ack` reads."""
    return f"{js_ack(stream, consumer)}>", f"{JS_ACK}*.*.{stream}.{consumer}.>"


def kv_key(bucket: str, key: str) -> str:
    """Where a bucket keeps a key, as every NATS client lays buckets out. A key is one token or several, with dots."""
    return f"$KV.{_key(bucket)}.{'.'.join(_key(token) for token in key.split('.'))}"


def kv_under(bucket: str, token: str) -> str:
    """Every key of a bucket that begins with `token` and a dot."""
    return f"$KV.{_key(bucket)}.{_key(token)}.>"


def kv_all(bucket: str) -> str:
    """Every key of a bucket."""
    return f"$KV.{_key(bucket)}.>"


class Delivery(NamedTuple):
    """What an ack subject says about the delivery it settles."""

    stream_seq: int
    delivered: int
    stored_ns: int
    """The broker's time of the message, nanoseconds since the epoch: time-outs count from it."""


def parse_ack(ack_subject: str) -> Delivery | None:
    """What an ack subject says, or None if it is none.

    Two forms exist: 9 tokens, and since 2.14 (off by default) 11 or more with domain and account hash in front.
    """
    parts = ack_subject.split(".")
    if len(parts) < 9 or parts[1] != "ACK":
        return None
    at = 4 if len(parts) == 9 else 6
    try:
        return Delivery(int(parts[at + 1]), int(parts[at]), int(parts[at + 3]))
    except (ValueError, IndexError):
        return None


# Of every NATS server and client, too.

ADVISORIES = "$JS.EVENT.ADVISORY.>"
"""What JetStream tells of elections, lost quorums and consumers."""

SNAPSHOTS = "$JS.SNAPSHOT.>"
"""Acknowledgements and chunks of a stream's backup."""

INBOX = "_INBOX"
"""What the inboxes of clients begin with that were told no other prefix."""


def inbox_prefix(public_key: str) -> str:
    """What the inboxes of a user begin with, by the public half of its nkey: nobody else may listen there."""
    return f"{INBOX}_{public_key[1:17]}"


def _key(token: str) -> str:
    assert is_key(token), f"not a subject token: {token!r}"
    return token


def _rid(token: str) -> str:
    assert is_request_id(token), f"not a rid: {token!r}"
    return token
