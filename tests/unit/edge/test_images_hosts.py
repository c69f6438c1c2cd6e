"""Which hosts' images are fetched, and which addresses are nobody's to name."""

from __future__ import annotations

import pytest

from edge.images_hosts import Host, is_public, parse_hosts, target_of
from infra.settings import SettingsError, load_settings

HOSTS = parse_hosts("img.example.com, *.example.org\thttp://plain.test *.ports.test:8443,HTTPS://Caps.Test")


def is_listed(url: str) -> bool:
    target = target_of(url)
    return target is not None and any(host.matches(target) for host in HOSTS)


def test_entries() -> None:
    assert parse_hosts("") == parse_hosts(" , ") == ()
    assert (
        Host("https", "img.example.com", 443),
        Host("https", "*.example.org", 443),
        Host("http", "plain.test", 80),
        Host("https", "*.ports.test", 8443),
        Host("https", "caps.test", 443),
    ) == HOSTS


@pytest.mark.parametrize(
    "url",
    [
        "https://img.example.com",
        "https://img.example.com/a/b.png?c=d#e",
        "HTTPS://IMG.Example.COM:443/a",
        "https://a.example.org/",
        "https://a.b.example.org/",
        "http://plain.test/x",
        "https://a.ports.test:8443/x",
        "https://caps.test/x",
    ],
)
def test_listed(url: str) -> None:
    assert is_listed(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://img.example.com/",
        "https://img.example.com:8443/",
        "https://evil-img.example.com/",
        "https://img.example.com.evil.test/",
        "https://img.example.com@evil.test/",
        "https://user:word@img.example.com/",
        "https://img.example.com\\@evil.test/",
        "https://evil.test/img.example.com",
        "https://evil.test#@img.example.com/",
        "https://img.example.com./",
        "https://example.org/",
        "https://evilexample.org/",
        "https://plain.test/",
        "https://a.ports.test/",
        " https://img.example.com/",
        "https:/img.example.com/",
        "https:img.example.com/",
        "//img.example.com/",
        "ftp://img.example.com/",
        "file:///etc/passwd",
        "https://img.exa\tmple.com/",
        "https://[::1/",
        "https://img.example.com:99999999/",
        "",
    ],
)
def test_not_listed(url: str) -> None:
    assert not is_listed(url)


def test_where_a_url_leads() -> None:
    target = target_of("https://bücher.example.org/ä b?c=%20#d")
    assert target is not None
    assert (target.name, target.path) == ("xn--bcher-kva.example.org", "/%C3%A4%20b?c=%20")
    assert target.authority == "xn--bcher-kva.example.org"
    other = target_of("https://a.ports.test:8443/")
    assert other is not None
    assert other.authority == "a.ports.test:8443"


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.1.2.3", "169.254.169.254", "172.16.0.1"),
        *("172.31.255.255", "192.0.0.8", "192.168.1.1", "192.88.99.1", "198.18.0.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::1", "2002:a00:1::"),
        *("2001:0:53aa:64c::1", "2001:db8::1", "3fff::1", "100::1", "fc00::1", "fd12::1", "fe80::1"),
        *("fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "172.32.0.1", "192.167.0.1", "2606:4700::1111", "2a00:1450:4001::1"),
        *("::ffff:8.8.8.8", "64:ff9b::808:808"),
    ],
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "text", ["https://a.b/path", "ftp://a.b", "a b c!", "*", "a.*.b", "a:port", "user@a", "[::1]"]
)
def test_a_bad_list_stops_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match="image-hosts"):
        load_settings({"image_hosts": text})


@pytest.mark.parametrize("text", ["", "a", "a.b", "*.a.b", "a.b:8443, http://*.c.d:80\n1.2.3.4", " a , b "])
def test_a_good_list_is_taken(text: str) -> None:
    assert load_settings({"image_hosts": text}).image_hosts == text
