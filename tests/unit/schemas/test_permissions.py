"""The table of permissions: it knows every subject there is, and gives the sensitive ones to few."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from schemas import subjects
from schemas.permissions import ROLES, Role, imports_of, permissions_of, permissions_of_tenant
from schemas.streams import OUTPUT, REQUESTS

RID, WORDS = (
    "r" * 26,
    {"stream": OUTPUT, "consumer": "c1", "number": 1, "rid": "r" * 26, "public_key": "U" * 56},
)
INBOX = subjects.inbox_prefix("U" + "A" * 55)

NOBODYS = {
    "ROOT": "the beginning of all of them",
    "INBOX": "the beginning of inboxes: what a tenant has in its own account, and nobody in Penstock's",
    "JS_API": "the beginning of the server's API",
    "JS_ACK": "the beginning of ack subjects",
    "REQUESTS_NAME": "what traces call all of them",
    "REQUEST_TEMPLATE": "likewise, with names in the places of what differs",
}
"""What is no subject itself."""

SUBJECTS_OF = {
    "js_stream": lambda: subjects.js_stream("INFO", OUTPUT),
    "js_consumer": lambda: subjects.js_consumer("INFO", REQUESTS, "c1"),
    "js_direct_last": lambda: subjects.js_direct_last(OUTPUT, subjects.output_ctl("acme", RID)),
    "js_ack": lambda: subjects.js_ack(REQUESTS, "c1") + "1.1.1.1.0",
    "js_acks": lambda: subjects.js_acks(REQUESTS, "c1")[0],
    "kv_key": lambda: subjects.kv_key("penstock_models", "sim"),
    "kv_under": lambda: subjects.kv_under("penstock_files", "acme"),
    "kv_all": lambda: subjects.kv_all("penstock_models"),
    "micro": lambda: subjects.micro("PING", "penstock-edge"),
    "inbox_prefix": lambda: INBOX + ".>",
}
"""Builders of more than one kind of subject: one that somebody uses."""


def covers(pattern: str, subject: str) -> bool:
    """Whether all that `subject` matches is matched by `pattern`."""
    ours, theirs = pattern.split("."), subject.split(".")
    for at, token in enumerate(ours):
        if token == ">":
            return len(theirs) > at
        if at >= len(theirs) or theirs[at] == ">" or (token != "*" and token != theirs[at]):
            return False
    return len(ours) == len(theirs)


def lists() -> Iterator[str]:
    """Every entry of every list."""
    for role in ROLES:
        yield from (*permissions_of(role, inbox=INBOX).publish, *permissions_of(role, inbox=INBOX).subscribe)
    yield from (*permissions_of_tenant("acme").publish, *permissions_of_tenant("acme").subscribe)


def known_subjects() -> Iterator[tuple[str, str]]:
    """Name and an example of every public constant and builder of `schemas.subjects`."""
    for name, value in vars(subjects).items():
        if name.startswith(("_", "parse_", "is_")) or name in ("part_number", "micro_verb"):
            continue
        if isinstance(value, str) and name.isupper():
            yield name, value
        elif inspect.isfunction(value) and value.__module__ == subjects.__name__:
            made = SUBJECTS_OF.get(name)
            arguments = [WORDS.get(one, "acme") for one in inspect.signature(value).parameters]
            yield name, made() if made else value(*arguments)


@pytest.mark.parametrize(("name", "subject"), list(known_subjects()))
def test_every_subject_is_somebodys(name: str, subject: str) -> None:
    """A new one is forbidden to all until it is in the table: this says so before an operator finds out."""
    if name in NOBODYS:
        assert subject not in set(lists())
        return
    assert any(covers(pattern, subject) for pattern in lists()), f"{subject} is in no role's list"


@pytest.mark.parametrize(
    ("subject", "publishers"),
    [
        (subjects.output_tok("acme", RID), {"worker"}),
        (subjects.output_ctl("acme", RID), {"edge", "scheduler", "worker"}),
        (subjects.request("standard", "sim", "acme", RID), {"edge", "admin"}),
        (subjects.LEADER, {"scheduler"}),
        (subjects.work("worker-1"), {"scheduler"}),
        (subjects.PULL, {"worker"}),
        (subjects.EDGE, {"edge"}),
        (subjects.dead("sim", "acme", RID), {"worker"}),
        (subjects.js_stream("MSG.DELETE", REQUESTS), {"scheduler", "admin"}),
        (subjects.js_stream("DELETE", OUTPUT), {"admin"}),
        (subjects.js_stream("PURGE", REQUESTS), {"admin"}),
        (subjects.kv_key("penstock_config", "idempotency_secret"), {"edge", "admin"}),
        (subjects.kv_key("penstock_leader", "leader"), {"scheduler", "admin"}),
    ],
)
def test_what_matters_is_said_by_few(subject: str, publishers: set[Role]) -> None:
    permitted = {role: permissions_of(role, inbox=INBOX).publish for role in ROLES}
    assert {role for role, own in permitted.items() if any(covers(one, subject) for one in own)} == publishers


def test_both_forms_of_ack_subjects_are_permitted() -> None:
    form_1, form_2 = subjects.js_acks(REQUESTS, "standard-sim")
    acks = [
        f"{form_1[:-1]}1.2.3.4.5",
        form_2.replace("*", "hub", 1).replace("*", "hash")[:-1] + "1.2.3.4.5.token",
    ]
    for ack in acks:
        assert subjects.parse_ack(ack) is not None
        assert any(covers(one, ack) for one in permissions_of("worker", inbox=INBOX).publish)


def test_a_tenant_is_given_what_names_it() -> None:
    services, streams = imports_of("acme")
    assert all(".acme." in subject for subject in (*services, *streams))
    assert permissions_of_tenant("acme").publish == services


@pytest.mark.parametrize("tenant", ["*", ">", "a.b", "", "A", "a b"])
def test_no_tenant_is_a_wildcard(tenant: str) -> None:
    with pytest.raises(AssertionError):
        imports_of(tenant)
