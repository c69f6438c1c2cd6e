"""Which request a key means."""

from __future__ import annotations

import itertools

import pytest

from edge.idempotency import GENERATIONS_MAX, Attach, Fresh, State, choose, mismatch, rids_of, same_body
from schemas.ids import TenantKey, fingerprint, is_request_id

SECRET = b"s" * 32
TENANT = TenantKey("public")
RIDS = ["mihdgksh33rq3nzhe5fq452wqa", "esgcchphdz37jz6nhn32kgizee"]

FAILED_SEVEN_TIMES: list[State] = ["not_ok" for _ in range(7)]


def states(*first: State) -> list[State]:
    absent: list[State] = ["absent" for _ in range(GENERATIONS_MAX - len(first))]
    return [*first, *absent]


@pytest.mark.parametrize(
    ("first", "choice"),
    [
        ([], Fresh(0)),
        (["open"], Attach(0)),
        (["ok"], Attach(0)),
        (["not_ok"], Fresh(1)),
        (["not_ok", "open"], Attach(1)),
        (["not_ok", "not_ok", "ok"], Attach(2)),
        (FAILED_SEVEN_TIMES, Fresh(7)),
        ([*FAILED_SEVEN_TIMES, "open"], Attach(7)),
        ([*FAILED_SEVEN_TIMES, "not_ok"], Attach(7)),
        (["absent", "absent", "open"], Attach(2)),
        (["absent", "not_ok"], Fresh(2)),
    ],
)
def test_the_newest_generation_counts(first: list[State], choice: Attach | Fresh) -> None:
    assert choose(states(*first)) == choice


def test_whatever_is_seen_no_open_or_good_run_gets_a_second_one_beside_it() -> None:
    kinds: tuple[State, ...] = ("absent", "open", "ok", "not_ok")
    for first in itertools.product(kinds, repeat=4):
        seen = states(*first)
        choice = choose(seen)
        newest = max((g for g in range(GENERATIONS_MAX) if seen[g] != "absent"), default=-1)
        if isinstance(choice, Fresh):
            assert choice.generation == newest + 1
            assert newest == -1 or seen[newest] == "not_ok"
        else:
            assert choice.generation == newest


def test_the_rids_of_a_key_are_the_same_everywhere_and_fit_a_subject() -> None:
    rids = rids_of(SECRET, TENANT, "order-17")
    assert rids == rids_of(SECRET, TENANT, "order-17")
    assert len(set(rids)) == GENERATIONS_MAX
    assert all(is_request_id(rid) for rid in rids)
    # Written down: edges of two versions run beside each other in a rolling upgrade.
    assert rids[:2] == RIDS


def test_every_part_of_the_name_counts() -> None:
    mine = set(rids_of(SECRET, TENANT, "k"))
    for secret, tenant, key in (
        (b"t" * 32, TENANT, "k"),
        (SECRET, TenantKey("publi"), "ck"),
        (SECRET, TENANT, "K"),
        (SECRET, TENANT, "k0"),
    ):
        assert not mine & set(rids_of(secret, tenant, key))


def test_bodies_are_told_apart_by_fingerprint() -> None:
    assert same_body(fingerprint(b"a"), fingerprint(b"a"))
    assert not same_body(fingerprint(b"a"), fingerprint(b"b"))
    assert same_body("", fingerprint(b"a")), "it ended before anything told what it was"


def test_a_mismatch_is_final() -> None:
    assert (mismatch().row.status, mismatch().row.is_final) == (422, True)
