"""Fetches an image from a host that the operator listed, and from nowhere else.

A name is resolved once, every address it has must be public, and the connection goes to one of those: what the name
leads to a moment later has no effect. A host that is slow holds up only those who ask for its images.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from edge.errors import Problem
from edge.images_hosts import Host, Target, is_public
from edge.images_walk import Remote, param_of
from infra.logs import RequestLog, get_logger

FETCH_TIMEOUT_S = 5.0
"""For everything: a place in line, the name, the connection and the last byte."""

CONNECT_TIMEOUT_S = 2.0
"""Then the next address is tried: a name may have one of a kind that does not work here."""

ADDRESSES_MAX = 4
FETCHES_OF_HOST_MAX = 16
FETCHES_MAX = 1000
"""Under way and in line at one edge."""

RESOLVERS_OF_HOST = 4
"""Threads: a lookup blocks, and the event loop's own few are not for somebody's slow name server to use up."""

_OPAQUE_TYPES = ("", "application/octet-stream", "binary/octet-stream")
"""What stores of files say of anything."""

_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "penstock"}

_log = get_logger("images")


class Room:
    """How many bytes a request's images may still have, all together."""

    def __init__(self, bytes_left: int) -> None:
        self._bytes_left = bytes_left

    def take(self, count: int) -> bool:
        """Whether so many more fit."""
        self._bytes_left -= count
        return self._bytes_left >= 0


class _Refused(Exception):
    """The image is not to be had; the text is for the client, and says nothing about what an address belongs to."""


class ImageFetcher:
    """`bytes_max` bounds an image. `is_allowed` judges addresses, `resolve` turns a name into all that it has, `tls`
    holds the authorities that are trusted."""

    def __init__(
        self,
        hosts: Sequence[Host],
        *,
        bytes_max: int,
        timeout_s: float = FETCH_TIMEOUT_S,
        is_allowed: Callable[[str], bool] = is_public,
        resolve: Callable[[str, int], list[str]] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self._is_allowed = is_allowed
        self._resolve = resolve or addresses_of
        self._places = {host: asyncio.Semaphore(FETCHES_OF_HOST_MAX) for host in hosts}
        self._resolvers = {host: ThreadPoolExecutor(RESOLVERS_OF_HOST, "image-host") for host in hosts}
        # Reading the authorities takes 10 ms.
        self._tls = tls or httpx.create_ssl_context(trust_env=False) if hosts else None
        self._fetches = 0

    async def fetch(self, remote: Remote, room: Room, log: RequestLog = _log) -> bytes | Problem:
        """The image. `too_large`: `room` does not suffice. `log` names the request."""
        param = param_of(remote.path)
        if self._fetches >= FETCHES_MAX:
            return Problem("edge_full", "this server fetches too many images: try again", param)
        self._fetches += 1
        try:
            async with asyncio.timeout(self._timeout_s), self._places[remote.host]:
                image = await self._fetch(remote, room)
        except TimeoutError:
            return _failed(log, remote, f"it did not come within {self._timeout_s:g} s")
        except _Refused as refused:
            return _failed(log, remote, str(refused))
        finally:
            self._fetches -= 1
        if image is None:
            return Problem("too_large", "the request is too large with the images that it names", param)
        return image

    def close(self) -> None:
        """Ends the threads."""
        for resolver in self._resolvers.values():
            resolver.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, remote: Remote, room: Room) -> bytes | None:
        for address in await self._addresses(remote):
            try:
                return await self._download(remote.target, address, room)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except httpx.HTTPError as error:
                raise _Refused("the connection to its host broke") from error
        raise _Refused("its host cannot be reached")

    async def _addresses(self, remote: Remote) -> list[str]:
        loop, target = asyncio.get_running_loop(), remote.target
        try:
            addresses = await loop.run_in_executor(
                self._resolvers[remote.host], self._resolve, target.name, target.port
            )
        except (OSError, UnicodeError):
            addresses = []
        if not addresses or not all(self._is_allowed(address) for address in addresses):
            # The same words for both: who may ask here may not learn which names lead into this network.
            raise _Refused("its host has no public address")
        return addresses[:ADDRESSES_MAX]

    async def _download(self, target: Target, address: str, room: Room) -> bytes | None:
        url = httpx.URL(
            scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode("ascii")
        )
        timeout = httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S)
        assert self._tls is not None, "what is fetched belongs to a host"
        # A client for each: a connection that is kept was checked for one name, and may be asked for another.
        async with (
            httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout) as client,
            client.stream(
                "GET",
                url,
                headers={**_HEADERS, "host": target.authority},
                extensions={"sni_hostname": target.name},
                follow_redirects=False,
            ) as response,
        ):
            self._judge(response)
            image = bytearray()
            async for chunk in response.aiter_raw():
                image += chunk
                self._limit(len(image))
                if not room.take(len(chunk)):
                    return None
            return bytes(image)

    def _judge(self, response: httpx.Response) -> None:
        if response.is_redirect:
            raise _Refused("its host answered with a redirect, which is not followed")
        if response.status_code != httpx.codes.OK:
            raise _Refused(f"its host answered with {response.status_code}")
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not media_type.startswith("image/") and media_type not in _OPAQUE_TYPES:
            raise _Refused("what its host answered with is no image")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refused("its host answered with something compressed")
        length = response.headers.get("content-length", "")
        self._limit(int(length) if length.isdecimal() and len(length) < 20 else 0)

    def _limit(self, length: int) -> None:
        if length > self._bytes_max:
            raise _Refused(f"it is larger than {self._bytes_max} bytes")


def addresses_of(name: str, port: int) -> list[str]:
    """All addresses of a host, the best first. Blocks. Raises OSError or UnicodeError."""
    return [str(info[4][0]) for info in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


def _failed(log: RequestLog, remote: Remote, why: str) -> Problem:
    log.info("an image was not fetched", host=remote.target.name, why=why)
    return Problem("image_fetch_failed", f"the image could not be fetched: {why}", param_of(remote.path))
