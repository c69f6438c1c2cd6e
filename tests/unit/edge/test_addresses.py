"""Whose word about an address is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.access.addresses import client_of, is_loopback, networks_of

TRUSTED = networks_of("10.0.0.0/8 192.0.2.7 2001:db8:1::/48 ::ffff:172.16.0.0/108")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),  # a client that makes it up
        ("10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # what it was told is not believed
        ("10.1.2.3", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),  # nor on a line of its own
        ("10.1.2.3", ["203.0.113.9, 192.0.2.7,10.9.9.9"], "203.0.113.9"),
        ("10.1.2.3", ["10.0.0.1"], "10.0.0.1"),
        ("10.1.2.3", ["203.0.113.9, unknown"], "10.1.2.3"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.1.2.3", ["[2001:db8:2::1]:4711"], "2001:db8:2::/64"),
        ("2001:db8:1::5", ["203.0.113.9"], "203.0.113.9"),
        ("172.16.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.1.2.3", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("2001:db8:2:3:4:5:6:7", [], "2001:db8:2:3::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", ["203.0.113.9"], ""),
    ],
)
def test_the_last_hop_that_somebody_trusted_has_seen(peer: str, forwarded: list[str], client: str) -> None:
    assert client_of(peer, forwarded, TRUSTED) == client


@given(st.lists(st.text()))
def test_who_is_trusted_by_nobody_is_itself_whatever_it_says(forwarded: list[str]) -> None:
    assert client_of("203.0.113.9", forwarded, TRUSTED) == "203.0.113.9"


@given(st.lists(st.text()))
def test_no_header_breaks_it(forwarded: list[str]) -> None:
    assert client_of("10.1.2.3", forwarded, TRUSTED)


@pytest.mark.parametrize("text", ["nonsense", "10.0.0.0/99", "10.0.0.1 x"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        networks_of(text)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("a.b", False),
    ],
)
def test_who_can_reach_a_host(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local
