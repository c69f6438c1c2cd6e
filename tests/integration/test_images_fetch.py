"""Fetching of images over real sockets: what is refused, what is cut, and whom it may hold up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edge import images_fetch
from edge.errors import Problem
from edge.images_fetch import FETCH_TIMEOUT_S, FETCHES_OF_HOST_MAX, ImageFetcher, Room
from edge.images_hosts import Host, Target
from edge.images_walk import Remote
from tests.integration.picture_host import (
    CERTIFICATE,
    PictureHost,
    is_loopback,
    picture_host,
    resolver,
    response,
)
from tests.pictures import picture

PNG = picture("PNG")
ROOMY = 50_000_000
UNLIMITED: dict[str, Any] = {"is_allowed": is_loopback, "resolve": resolver("127.0.0.1")}


@pytest.fixture
async def pictures() -> AsyncIterator[PictureHost]:
    async with picture_host() as host:
        host.answers["/a.png"] = response(PNG)
        yield host


@contextlib.contextmanager
def fetcher(hosts: list[Host], **how: Any) -> Any:
    made = ImageFetcher(hosts, **{"bytes_max": 10_000_000, **how})
    yield made
    made.close()


def remote(
    host: PictureHost, path: str = "/a.png", name: str = "images.test", scheme: str = "http"
) -> Remote:
    target = Target(scheme, name, host.port, path)
    return Remote(("messages", 0, "content", 1, "image_url", "url"), target, Host(scheme, name, host.port))


async def fetch(wanted: Remote, room: int = ROOMY, **how: Any) -> bytes | Problem:
    with fetcher([wanted.host], **{**UNLIMITED, **how}) as made:
        return await made.fetch(wanted, Room(room))  # type: ignore[no-any-return]


async def failure(wanted: Remote, **how: Any) -> str:
    problem = await fetch(wanted, **how)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("image_fetch_failed", "messages[0].content[1].image_url")
    assert problem.row.status == 400
    return problem.message.removeprefix("the image could not be fetched: ")


async def test_an_image(pictures: PictureHost) -> None:
    assert await fetch(remote(pictures, "/a.png")) == PNG
    (head,) = pictures.requests
    assert head.startswith("GET /a.png HTTP/1.1\r\n")
    assert f"host: images.test:{pictures.port}\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    assert "cookie" not in head


async def test_over_tls_the_host_must_be_the_one_that_was_named() -> None:
    async with picture_host(tls=True) as host:
        host.answers["/a.png"] = response(PNG)
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        assert await fetch(remote(host, scheme="https"), tls=trusting) == PNG
        assert host.names == ["images.test"]
        for how in ({"name": "other.test"}, {}):
            wanted = remote(host, scheme="https", **how)
            tls = trusting if how else None
            assert await failure(wanted, tls=tls) == "its host cannot be reached"
        assert len(host.requests) == 1


@pytest.mark.parametrize(
    "name",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0177.0.0.1"],
)
async def test_loopback_is_refused_however_it_is_spelled(pictures: PictureHost, name: str) -> None:
    """Even where the operator listed it. With the check taken away, each of them does lead to the host."""
    wanted = remote(pictures, name=name)
    with fetcher([wanted.host]) as guarded:
        problem = await guarded.fetch(wanted, Room(ROOMY))
    assert isinstance(problem, Problem)
    assert problem.message.endswith("its host has no public address")
    assert "127" not in problem.message
    assert pictures.connections == 0
    assert await fetch(wanted, resolve=images_fetch.addresses_of, is_allowed=lambda _address: True) == PNG


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["192.168.0.1", "1.1.1.1"],
        ["1.1.1.1", "127.0.0.1"],
        [],
    ],
)
async def test_names_that_lead_inside_are_refused_also_if_they_lead_outside_too(
    pictures: PictureHost, addresses: list[str]
) -> None:
    wanted = remote(pictures)
    with fetcher([wanted.host], resolve=resolver(*addresses)) as guarded:
        problem = await guarded.fetch(wanted, Room(ROOMY))
    assert isinstance(problem, Problem)
    assert problem.message == "the image could not be fetched: its host has no public address"
    assert pictures.connections == 0


async def test_an_unknown_name_is_refused_in_the_same_words(pictures: PictureHost) -> None:
    def unknown(_name: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert await failure(remote(pictures), resolve=unknown) == "its host has no public address"
    long = remote(pictures, name="a" * 70)
    assert await failure(long, resolve=images_fetch.addresses_of) == "its host has no public address"


async def test_a_name_is_resolved_once_and_what_it_leads_to_later_has_no_effect(
    pictures: PictureHost,
) -> None:
    """The attack called DNS rebinding: a public address for the check, a private one for the connection."""
    asked: list[str] = []

    def rebinding(name: str, _port: int) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    assert await fetch(remote(pictures, name="rebind.invalid"), resolve=rebinding) == PNG
    assert asked == ["rebind.invalid"]


async def test_the_next_address_is_tried(pictures: PictureHost) -> None:
    how: dict[str, Any] = {"resolve": resolver("127.0.0.2", "127.0.0.1"), "is_allowed": lambda _address: True}
    assert await fetch(remote(pictures), **how) == PNG
    assert await failure(remote(pictures), resolve=resolver("127.0.0.2"), is_allowed=how["is_allowed"]) == (
        "its host cannot be reached"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (response(b"", "Location: /a.png", status="302 Found"), "redirect"),
        (response(b"", "Location: http://10.0.0.1/", status="308 Permanent Redirect"), "redirect"),
        (response(b"no", status="404 Not Found"), "answered with 404"),
        (response(b"no", status="500 Oops"), "answered with 500"),
        (response(PNG, kind="text/html"), "no image"),
        (response(PNG, kind="application/json; x=image/png"), "no image"),
        (response(PNG, "Content-Encoding: gzip"), "compressed"),
        (response(PNG, length=len(PNG) + 1), "the connection to its host broke"),
        (response(PNG, "Transfer-Encoding: chunked", length=-1), "the connection to its host broke"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the connection to its host broke"),
        (b"", "the connection to its host broke"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000, "the connection to its host broke"),
    ],
)
async def test_answers_that_are_no_image(pictures: PictureHost, answer: bytes, why: str) -> None:
    pictures.answers["/x"] = answer
    assert why in await failure(remote(pictures, "/x"))
    assert len(pictures.requests) == 1, "nothing is followed, nothing is tried again"


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; a=b", "application/octet-stream", ""])
async def test_what_it_is_said_to_be_is_not_decisive(pictures: PictureHost, kind: str) -> None:
    pictures.answers["/x"] = response(PNG, kind=kind)
    assert await fetch(remote(pictures, "/x")) == PNG


@pytest.mark.parametrize("says_length", [True, False])
async def test_ten_megabytes_and_not_a_byte_more(pictures: PictureHost, says_length: bool) -> None:
    for size in (10_000_000, 10_000_001):
        pictures.answers[f"/{size}"] = response(bytes(size), length=None if says_length else -1)
    image = await fetch(remote(pictures, "/10000000"))
    assert isinstance(image, bytes)
    assert len(image) == 10_000_000
    assert await failure(remote(pictures, "/10000001")) == "it is larger than 10000000 bytes"


async def test_what_does_not_fit_into_the_request_is_cut(pictures: PictureHost) -> None:
    wanted = remote(pictures)
    assert await fetch(wanted, room=len(PNG)) == PNG
    problem = await fetch(wanted, room=len(PNG) - 1)
    assert isinstance(problem, Problem)
    assert problem.row.status == 413
    with fetcher([wanted.host], **UNLIMITED) as made:
        room = Room(len(PNG) + 5)
        both = await asyncio.gather(made.fetch(wanted, room), made.fetch(wanted, room))
    assert sum(isinstance(image, bytes) for image in both) == 1, "the room is that of all images of a request"


@pytest.mark.parametrize("path", ["/drip", "/silent"])
async def test_slow_hosts_are_cut(pictures: PictureHost, path: str) -> None:
    assert FETCH_TIMEOUT_S == 5
    before = time.monotonic()
    assert await failure(remote(pictures, path), timeout_s=2.0) == "it did not come within 2 s"
    assert time.monotonic() - before > 1.9
    assert pictures.connections == 1


async def test_a_slow_name_server_is_cut(pictures: PictureHost) -> None:
    released = threading.Event()

    def hangs(_name: str, _port: int) -> list[str]:
        released.wait(60)
        return ["127.0.0.1"]

    try:
        why = await failure(remote(pictures), timeout_s=0.2, resolve=hangs)
        assert not released.is_set()
    finally:
        released.set()
    assert why == "it did not come within 0.2 s"
    assert pictures.connections == 0


async def test_a_slow_host_holds_up_only_those_who_ask_for_its_images(pictures: PictureHost) -> None:
    slow, fast = remote(pictures, "/silent", name="slow.test"), remote(pictures, name="fast.test")
    with fetcher([slow.host, fast.host], **UNLIMITED, timeout_s=60) as made:
        slow_ones = [
            asyncio.create_task(made.fetch(slow, Room(ROOMY))) for _ in range(FETCHES_OF_HOST_MAX + 5)
        ]
        async with asyncio.timeout(30):
            while len(pictures.requests) < FETCHES_OF_HOST_MAX:
                await asyncio.sleep(0.01)
            assert await made.fetch(fast, Room(ROOMY)) == PNG
        assert len(pictures.requests) == FETCHES_OF_HOST_MAX + 1
        for task in slow_ones:
            task.cancel()
        await asyncio.wait(slow_ones)


async def test_who_waits_in_line_is_cut_too(pictures: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_fetch, "FETCHES_OF_HOST_MAX", 1)
    slow, before = remote(pictures, "/silent"), time.monotonic()
    with fetcher([slow.host], **UNLIMITED, timeout_s=0.5) as made:
        problems = await asyncio.gather(*[made.fetch(slow, Room(ROOMY)) for _ in range(20)])
    assert all(isinstance(problem, Problem) for problem in problems)
    assert time.monotonic() - before < 5, "one after the other they would take 10 s"


async def test_the_line_is_bounded(pictures: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_fetch, "FETCHES_MAX", 1)
    with fetcher([remote(pictures).host], **UNLIMITED) as made:
        first = asyncio.create_task(made.fetch(remote(pictures), Room(ROOMY)))
        await asyncio.sleep(0)
        problem = await made.fetch(remote(pictures), Room(ROOMY))
        assert isinstance(problem, Problem)
        assert problem.row.status == 503
        assert await first == PNG
        assert await made.fetch(remote(pictures), Room(ROOMY)) == PNG


def test_all_addresses_of_a_host() -> None:
    found: Callable[[str, int], list[str]] = images_fetch.addresses_of
    assert "127.0.0.1" in found("localhost", 80)
    assert found("::1", 80) == ["::1"]
