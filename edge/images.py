"""Images of chats: checked before anything is published, and fetched where the client names one of a listed host."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from edge.errors import Problem
from edge.images_data import HEAD_BYTES, ImageRules, data_uri, image_fault
from edge.images_fetch import ImageFetcher, Room
from edge.images_hosts import parse_hosts
from edge.images_size import MEDIA_TYPES, media_type_of
from edge.images_walk import Path, Remote, param_of, remotes_in, with_texts
from edge.openai_bodies import Body, ChatBody
from infra.logs import RequestLog
from infra.settings import Settings


class Images:
    """The images of an edge's requests, under `rules`."""

    def __init__(self, rules: ImageRules, fetcher: ImageFetcher) -> None:
        self._rules = rules
        self._fetcher = fetcher

    def check(self, body: Body) -> list[Remote] | Problem:
        """The images that `inline` is to fetch; a problem if the request cannot go on."""
        return remotes_in(body.messages, self._rules) if isinstance(body, ChatBody) else []

    async def inline(
        self, raw: bytes, remotes: Sequence[Remote], bytes_max: int, log: RequestLog
    ) -> bytes | Problem:
        """The body with `data:` URIs in place of these URLs; no engine has to fetch anything. `log` names the
        request."""
        if not remotes:
            return raw
        # Base64 makes four bytes of three.
        room = Room((bytes_max - len(raw)) * 3 // 4)
        found = await asyncio.gather(*[self._fetch(remote, room, log) for remote in remotes])
        images: list[tuple[Path, bytes]] = []
        for image in found:
            if isinstance(image, Problem):
                return image
            images.append(image)
        whole = with_texts(raw, images)
        if len(whole) > bytes_max:
            return Problem(
                "too_large",
                f"the request has {len(whole)} bytes with the images that it names: at most {bytes_max} are accepted",
            )
        return whole

    def close(self) -> None:
        """Ends what works in the background."""
        self._fetcher.close()

    async def _fetch(self, remote: Remote, room: Room, log: RequestLog) -> tuple[Path, bytes] | Problem:
        image = await self._fetcher.fetch(remote, room, log)
        if isinstance(image, Problem):
            return image
        media_type = media_type_of(image[:HEAD_BYTES])
        fault = (
            f"what was fetched is none of {', '.join(MEDIA_TYPES)}"
            if media_type is None
            else image_fault(media_type, lambda at, count: image[at : at + count], len(image), self._rules)
        )
        if media_type is None or fault is not None:
            return Problem("invalid_image", str(fault), param_of(remote.path))
        return remote.path, data_uri(media_type, image)


def images_of(settings: Settings) -> Images:
    """As the settings have it."""
    hosts = parse_hosts(settings.image_hosts)
    rules = ImageRules(settings.images_max, settings.image_bytes_max, settings.image_pixels_max, hosts)
    return Images(rules, ImageFetcher(hosts, bytes_max=rules.bytes_max))
