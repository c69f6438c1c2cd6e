"""What clients may ask for in headers."""

from __future__ import annotations

import pytest

from edge.errors import Problem
from edge.wishes import DEADLINE_HEADER, KEY_HEADER, ON_DISCONNECT_HEADER, WishDefaults, Wishes, wishes_of

DEFAULTS = WishDefaults(on_disconnect="cancel", idempotency_grace_s=30.0, request_timeout_max_s=3600.0)


def wishes(defaults: WishDefaults = DEFAULTS, **headers: str) -> Wishes | Problem:
    return wishes_of({name.replace("_", "-"): value for name, value in headers.items()}, defaults)


def test_without_headers_the_settings_hold() -> None:
    assert wishes() == Wishes(0.0, None, None)
    assert wishes(WishDefaults("detach", 30.0, 3600.0)) == Wishes(None, None, None)
    assert wishes(WishDefaults("grace=2.5", 30.0, 3600.0)) == Wishes(2.5, None, None)


@pytest.mark.parametrize(
    ("text", "grace_s"),
    [
        ("cancel", 0.0),
        ("detach", None),
        ("grace=0", 0.0),
        ("grace=10", 10.0),
        ("grace=0.25", 0.25),
        ("grace=9999", 9999.0),
    ],
)
def test_the_client_says_what_its_leaving_means(text: str, grace_s: float | None) -> None:
    assert wishes(x_penstock_on_disconnect=text) == Wishes(grace_s, None, None)
    assert wishes(x_penstock_on_disconnect=text, idempotency_key="k") == Wishes(grace_s, "k", None)


def test_a_key_implies_a_grace_whatever_the_setting() -> None:
    assert wishes(idempotency_key="k") == Wishes(30.0, "k", None)
    assert wishes(WishDefaults("detach", 20.0, 3600.0), idempotency_key="k") == Wishes(20.0, "k", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Cancel",
        "grace",
        "grace=",
        "grace=-1",
        "grace=1e3",
        "grace=nan",
        "grace=inf",
        "grace=1234567890",
        "keep",
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(text: str) -> None:
    refused = wishes(x_penstock_on_disconnect=text)
    assert isinstance(refused, Problem)
    assert (refused.reason, refused.param) == ("bad_request", ON_DISCONNECT_HEADER)


@pytest.mark.parametrize("key", ["k", "!~", '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "x" * 255])
def test_a_key_is_visible_ascii(key: str) -> None:
    assert wishes(idempotency_key=key) == Wishes(30.0, key, None)


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "é", "a\x00", "x" * 256, "k\n", "k\r\nNats-Msg-Id: x"])
def test_any_other_key_is_refused(key: str) -> None:
    refused = wishes(idempotency_key=key)
    assert isinstance(refused, Problem)
    assert (refused.reason, refused.param) == ("bad_request", KEY_HEADER)


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("0.5", 0.5), ("3600", 3600.0), ("007", 7.0)])
def test_a_deadline_is_in_seconds(text: str, seconds: float) -> None:
    assert wishes(x_penstock_deadline=text) == Wishes(0.0, None, seconds)


@pytest.mark.parametrize(
    "text", ["", "0", "0.0", "-1", "3600.1", "1e2", "nan", "inf", " 1", "1s", "٣", "9" * 12]
)
def test_any_other_deadline_is_refused(text: str) -> None:
    refused = wishes(x_penstock_deadline=text)
    assert isinstance(refused, Problem)
    assert (refused.reason, refused.param) == ("bad_request", DEADLINE_HEADER)
