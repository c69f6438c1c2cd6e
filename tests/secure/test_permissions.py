"""What the broker forbids each role, with the config that `penstock broker init --secure` writes: one test for each
thing a role must not publish or listen to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas import subjects
from schemas.permissions import ROLES, STREAMS, Role, permissions_of
from schemas.streams import (
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
    bucket_stream,
)
from tests.secure.secured import SecuredBroker

RID = "r" * 26
TENANT = "acme"
REQUEST = subjects.request("standard", "sim", TENANT, RID)
CTL, TOK = subjects.output_ctl(TENANT, RID), subjects.output_tok(TENANT, RID)
LETTER = subjects.dead("sim", TENANT, RID)
RESPONSE = subjects.response(TENANT, RID)
PART = subjects.file_part(TENANT, "c1", 0)
BATCH = subjects.batch(TENANT, "b1")
CANCEL = subjects.cancel(TENANT, RID)
WORK = subjects.work("worker-1")
RATE = subjects.rate("c1")
SECRET = subjects.kv_key(CONFIG_BUCKET, "idempotency_secret")
LEADER_KEY = subjects.kv_key(LEADER_BUCKET, "leader")
MODEL_KEY = subjects.kv_key(MODELS_BUCKET, "sim")
COUNT_KEY = subjects.kv_key(COUNTS_BUCKET, "edge-1")
FILE_KEY = subjects.kv_key(FILES_BUCKET, f"{TENANT}.f1")
ACK = subjects.js_ack(REQUESTS, "standard-sim") + "1.1.1.1.0"
ACK_2 = (
    subjects.js_acks(REQUESTS, "standard-sim")[1].replace("*", "hub", 1).replace("*", "hash")[:-1]
    + "1.1.1.1.0"
)
BATCH_ACK = subjects.js_ack("BATCHES", "edges") + "1.1.1.1.0"
CONFIG_STREAM = bucket_stream(CONFIG_BUCKET).name


def _verbs(stream: str, *verbs: str) -> list[str]:
    return [subjects.js_stream(verb, stream) for verb in verbs]


def _reads(*streams: str) -> list[str]:
    """Both ways to read what is stored."""
    return [way for stream in streams for way in (*_verbs(stream, "MSG.GET"), subjects.js_direct_get(stream))]


# Nobody but an admin changes or deletes a stream.
_CHANGES = [call for stream in STREAMS for call in _verbs(stream, "DELETE", "UPDATE", "SNAPSHOT")]
_PURGES = [subjects.js_stream("PURGE", stream) for stream in STREAMS]
_CREATES = [subjects.js_stream("CREATE", stream) for stream in STREAMS]
_OTHER_STREAM = subjects.js_stream("CREATE", "MINE")
_CONSUMERS = [
    *(
        subjects.js_consumer(verb, stream, "mine")
        for stream in (OUTPUT, DEAD, CONFIG_STREAM)
        for verb in ("CREATE", "DELETE")
    ),
    subjects.js_consumer("DURABLE.CREATE", OUTPUT, "mine"),
]

FORBIDDEN_PUBLISHES: dict[Role, list[str]] = {
    "edge": [
        *(TOK, WORK, subjects.LEADER, subjects.PULL, LETTER, LEADER_KEY, MODEL_KEY),
        *(ACK, ACK_2, subjects.live(TENANT, RID).replace("*", "tok")),
        *(*_CHANGES, *_CREATES, _OTHER_STREAM, *_CONSUMERS),
        *(purge for purge in _PURGES if purge != subjects.js_stream("PURGE", FILES)),
        *_verbs(REQUESTS, "MSG.DELETE"),
        *_verbs(OUTPUT, "MSG.DELETE"),
        *_verbs(FILES, "MSG.DELETE"),
        *_reads(DEAD, bucket_stream(LEADER_BUCKET).name),
        subjects.js_consumer("CREATE", REQUESTS, "standard-sim"),
        subjects.js_consumer("DELETE", REQUESTS, "standard-sim"),
        subjects.js_consumer("MSG.NEXT", REQUESTS, "standard-sim"),
    ],
    "scheduler": [
        *(TOK, REQUEST, subjects.PULL, subjects.EDGE, LETTER, RESPONSE, PART, BATCH, RATE),
        *(SECRET, COUNT_KEY, FILE_KEY, BATCH_ACK, subjects.live(TENANT, RID).replace("*", "tok")),
        *(*_CHANGES, *_PURGES, _OTHER_STREAM, *_CONSUMERS),
        *_verbs(OUTPUT, "MSG.DELETE"),
        *_verbs(DEAD, "MSG.DELETE"),
        *_verbs(RESPONSES, "MSG.DELETE"),
        *_reads(DEAD, RESPONSES, FILES, CONFIG_STREAM, bucket_stream(FILES_BUCKET).name),
        subjects.js_consumer("MSG.NEXT", "BATCHES", "edges"),
    ],
    "worker": [
        *(REQUEST, subjects.LEADER, subjects.EDGE, WORK, CANCEL, RESPONSE, PART, BATCH, RATE),
        *(SECRET, LEADER_KEY, MODEL_KEY, COUNT_KEY, FILE_KEY, BATCH_ACK),
        *(*_CHANGES, *_PURGES, *_CREATES, _OTHER_STREAM, *_CONSUMERS),
        *_verbs(REQUESTS, "MSG.DELETE"),
        *_verbs(OUTPUT, "MSG.DELETE"),
        *_verbs(DEAD, "MSG.DELETE"),
        *_reads(REQUESTS, DEAD, RESPONSES, FILES, RATES, CONFIG_STREAM, bucket_stream(FILES_BUCKET).name),
        *(subjects.js_consumer(verb, REQUESTS, "standard-sim") for verb in ("CREATE", "DELETE", "MSG.NEXT")),
    ],
    "admin": [
        *(CTL, TOK, subjects.LEADER, subjects.PULL, WORK, subjects.EDGE, CANCEL, LETTER, ACK, ACK_2),
        subjects.live(TENANT, RID).replace("*", "tok"),
    ],
    "observer": [
        *(
            REQUEST,
            CTL,
            TOK,
            subjects.LEADER,
            subjects.PULL,
            WORK,
            subjects.EDGE,
            CANCEL,
            LETTER,
            ACK,
            SECRET,
        ),
        *(*_CHANGES, *_PURGES, *_CREATES, *_CONSUMERS),
        *(call for stream in STREAMS for call in _verbs(stream, "MSG.DELETE")),
        *_reads(RESPONSES, FILES, RATES, CONFIG_STREAM),
    ],
}

_OTHERS_INBOX = f"{subjects.inbox_prefix('U' + 'A' * 55)}.>"
_EVERYBODYS = [">", f"{subjects.INBOX}.>", "*.>", _OTHERS_INBOX, f"{subjects.JS_API}>", "$SYS.>"]

FORBIDDEN_SUBSCRIPTIONS: dict[Role, list[str]] = {
    "edge": [
        *(*_EVERYBODYS, subjects.REQUESTS_ALL, subjects.OUTPUT_ALL, subjects.WORK_ALL, subjects.PULL),
        *(subjects.CANCEL_ALL, subjects.DEAD_ALL, subjects.RESPONSES_ALL, subjects.FILES_ALL, SECRET),
    ],
    "scheduler": [
        *(*_EVERYBODYS, subjects.REQUESTS_ALL, subjects.OUTPUT_ALL, subjects.LIVE_ALL, subjects.WORK_ALL),
        *(subjects.LEADER, subjects.DEAD_ALL, subjects.RESPONSES_ALL, subjects.FILES_ALL, SECRET),
    ],
    "worker": [
        *(*_EVERYBODYS, subjects.REQUESTS_ALL, subjects.OUTPUT_ALL, subjects.LIVE_ALL, subjects.PULL),
        *(subjects.EDGE, subjects.DEAD_ALL, subjects.RESPONSES_ALL, subjects.FILES_ALL, SECRET),
    ],
    "admin": [
        *(*_EVERYBODYS, subjects.REQUESTS_ALL, subjects.OUTPUT_ALL, subjects.LIVE_ALL, subjects.WORK_ALL),
        *(subjects.PULL, subjects.LEADER, SECRET),
    ],
    "observer": [*_EVERYBODYS, subjects.RESPONSES_ALL, subjects.FILES_ALL, SECRET, FILE_KEY],
}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    broker = SecuredBroker(tmp_path_factory.mktemp("secured") / "broker")
    yield broker
    broker.stop()


@pytest.mark.parametrize(
    ("role", "subject"), [(role, subject) for role in ROLES for subject in FORBIDDEN_PUBLISHES[role]]
)
async def test_a_role_may_not_publish(secured: SecuredBroker, role: Role, subject: str) -> None:
    async with secured.client(role) as client:
        assert not await client.may_publish(subject)


@pytest.mark.parametrize(
    ("role", "subject"), [(role, subject) for role in ROLES for subject in FORBIDDEN_SUBSCRIPTIONS[role]]
)
async def test_a_role_may_not_listen(secured: SecuredBroker, role: Role, subject: str) -> None:
    async with secured.client(role) as client:
        assert not await client.may_subscribe(subject)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_what_its_table_says(secured: SecuredBroker, role: Role) -> None:
    """Else every refusal above could be one of everything."""
    async with secured.client(role) as client:
        permitted = permissions_of(role, inbox=client._inbox_prefix.decode())
        for subject in permitted.subscribe:
            assert await client.may_subscribe(subject), subject
        for subject in permitted.publish:
            if subject.startswith(subjects.JS_API) and "*" not in subject:  # harmless without a body
                assert await client.may_publish(subject.replace(">", "INFO")), subject


async def test_every_user_has_an_inbox_of_its_own(secured: SecuredBroker) -> None:
    async with secured.client("edge") as edge, secured.client("worker") as worker:
        assert await edge.may_subscribe(edge.new_inbox())
        assert not await worker.may_subscribe(edge.new_inbox())
