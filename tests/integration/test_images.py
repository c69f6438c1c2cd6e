"""Images in chats at an edge: passed on byte for byte, refused before anything is published, or fetched and put in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from edge.images import Images
from edge.images_data import ImageRules
from edge.images_fetch import ImageFetcher
from edge.images_hosts import parse_hosts
from infra.broker import Broker
from infra.settings import load_settings
from schemas.ids import fingerprint
from schemas.output import End
from tests.integration.edge_under_test import (
    CHAT,
    MODEL,
    Attempt,
    Backend,
    World,
    backend_on,
    edge_at,
    edge_on,
    post,
)
from tests.integration.picture_host import PictureHost, is_loopback, picture_host, resolver, response
from tests.pictures import data_uri, image_part, padded, picture, png_that_claims, user

PNG = picture("PNG", 20, 10)
REQUEST_BYTES_MAX = 100_000


@pytest.fixture
async def world(broker: Broker) -> AsyncIterator[World]:
    async with edge_on(load_settings({"nats_url": broker.url, "head_wait_s": 3})) as world:
        yield world


@pytest.fixture
async def pictures() -> AsyncIterator[PictureHost]:
    async with picture_host() as host:
        host.answers["/a.png"] = response(PNG)
        yield host


@pytest.fixture
async def fetching(broker: Broker, pictures: PictureHost) -> AsyncIterator[World]:
    """An edge that fetches from the host of pictures, under three names."""
    settings = load_settings(
        {"nats_url": broker.url, "head_wait_s": 3, "request_bytes_max": REQUEST_BYTES_MAX}
    )
    hosts = parse_hosts(f"http://images.test:{pictures.port} http://slow.test:{pictures.port}")
    fetcher = ImageFetcher(
        hosts,
        bytes_max=90_000,
        timeout_s=4,
        is_allowed=is_loopback,
        resolve=resolver("127.0.0.1"),
    )
    images = Images(ImageRules(4, 90_000, 1_000_000, hosts), fetcher)
    async with backend_on(settings) as backend, edge_at(settings, backend, images=images) as world:
        yield world


async def answer(backend: Backend) -> Attempt:
    """Answers the next request, and returns it."""
    attempt = await backend.attempt()
    await attempt.tok("ok")
    await attempt.end(End(status="ok", n=1, finish_reasons=["stop"]))
    return attempt


async def refusal(world: World, messages: Any) -> openai.APIStatusError:
    async with world.openai as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model=MODEL, messages=messages)
    return refused.value


async def test_images_of_megabytes_reach_the_queue_byte_for_byte(world: World) -> None:
    images = [data_uri(padded(picture("PNG", 700, 700 + more), 1_500_000)) for more in range(3)]
    spelled = json.dumps({"model": MODEL, "messages": user("see", *map(image_part, images))}, indent=1)
    raw = spelled.replace("/", "\\/", 1000).encode()
    assert len(raw) > 6_000_000
    async with world.http as http:
        asked = asyncio.create_task(http.post(CHAT, content=raw))
        attempt = await answer(world.backend)
        assert (await asked).status_code == 200
    assert attempt.body == raw


async def test_a_bomb_is_refused_before_it_is_published(world: World) -> None:
    error = await refusal(world, user("see", image_part(data_uri(png_that_claims(40_000, 40_000)))))
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.param) == ("invalid_image", "messages[0].content[1].image_url")
    assert error.type == "invalid_request_error"
    assert "40000 x 40000" in error.message
    assert world.backend.arrivals == 0


@pytest.mark.parametrize(
    "part",
    [
        image_part("https://upload.wikimedia.org/a.png"),
        image_part("http://169.254.169.254/latest/meta-data/"),
        {"type": "video_url", "video_url": {"url": "http://10.0.0.1/a.mp4"}},
        {"type": "input_audio", "input_audio": {"data": "file:///etc/passwd", "format": "wav"}},
    ],
)
async def test_no_url_reaches_an_engine(world: World, part: dict[str, Any]) -> None:
    error = await refusal(world, user(part))
    assert isinstance(error, openai.BadRequestError)
    assert str(error.param).startswith("messages[0].content[0].")
    assert "data: URI" in error.message
    assert world.backend.arrivals == 0


async def test_images_of_a_listed_host_are_put_in(fetching: World, pictures: PictureHost) -> None:
    pictures.answers["/b.jpg"] = response(picture("JPEG"))
    url = f"http://images.test:{pictures.port}"
    sent = {
        "model": MODEL,
        "messages": user("see", *(image_part(url + path) for path in ("/a.png", "/b.jpg"))),
    }
    raw = json.dumps(sent).encode()
    async with fetching.http as http:
        asked = asyncio.create_task(http.post(CHAT, content=raw))
        attempt = await answer(fetching.backend)
        assert (await asked).status_code == 200
    inlined = (image_part(data_uri(PNG)), image_part(data_uri(picture("JPEG"), "image/jpeg")))
    assert json.loads(attempt.body) == {"model": MODEL, "messages": user("see", *inlined)}
    assert attempt.meta.fingerprint == fingerprint(raw), "it stands for what the client sent"
    assert len(pictures.requests) == 2


async def test_a_retry_with_its_key_fetches_nothing_again(fetching: World, pictures: PictureHost) -> None:
    messages = user(image_part(f"http://images.test:{pictures.port}/a.png"))
    first = post(fetching, {"Idempotency-Key": "one"}, messages=messages)
    await answer(fetching.backend)
    assert (await first).status_code == 200
    again = await post(fetching, {"Idempotency-Key": "one"}, messages=messages)
    assert (again.status_code, again.text) == (200, (await first).text)
    assert len(pictures.requests) == fetching.backend.arrivals == 1


@pytest.mark.parametrize(
    ("path", "answered", "status", "code", "words"),
    [
        ("/gone", response(b"", status="410 Gone"), 400, "failed_to_download_image", "answered with 410"),
        ("/text", response(b"secret", kind="image/png"), 400, "invalid_image", "none of image/png"),
        ("/bomb", response(png_that_claims(40_000, 40_000)), 400, "invalid_image", "40000 x 40000"),
        ("/large", response(PNG + bytes(90_000)), 400, "failed_to_download_image", "larger than 90000"),
        ("/wide", response(PNG + bytes(80_000)), 413, "request_too_large", "too large with the images"),
    ],
)
async def test_what_was_fetched_is_judged_like_what_was_sent(
    fetching: World, pictures: PictureHost, path: str, answered: bytes, status: int, code: str, words: str
) -> None:
    pictures.answers[path] = answered
    error = await refusal(fetching, user("x", image_part(f"http://images.test:{pictures.port}{path}")))
    assert (error.status_code, error.code) == (status, code)
    assert words in error.message
    assert error.param == "messages[0].content[1].image_url"
    assert fetching.backend.arrivals == 0


async def test_the_whole_request_must_fit_with_its_images(fetching: World, pictures: PictureHost) -> None:
    """Each of them would."""
    pictures.answers["/half"] = response(PNG + bytes(40_000))
    url = f"http://images.test:{pictures.port}/half"
    error = await refusal(fetching, user(image_part(url), image_part(url)))
    assert (error.status_code, error.code) == (413, "request_too_large")


async def test_a_slow_host_holds_up_nobody_else(fetching: World, pictures: PictureHost) -> None:
    slow = post(fetching, messages=user(image_part(f"http://slow.test:{pictures.port}/drip")))
    while not pictures.requests:
        await asyncio.sleep(0.01)
    fast = post(fetching, messages=user(image_part(f"http://images.test:{pictures.port}/a.png")))
    await answer(fetching.backend)
    assert (await fast).status_code == 200
    assert not slow.done()
    refused: httpx.Response = await slow
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "failed_to_download_image"
