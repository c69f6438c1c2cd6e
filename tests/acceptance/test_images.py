"""Images through a whole system: what the engine sees are the bytes that the client sent, and no URL is followed."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from bench.system import System
from bench.transcript import MODEL, client
from infra.setting_types import MIB
from tests.acceptance.conftest import StartSystem
from tests.pictures import MEDIA_TYPES, data_uri, image_part, padded, picture, user
from workers.engines.simulator import prompt_of, reference_text


@pytest.fixture(scope="module")
def listener() -> Iterator[http.server.HTTPServer]:
    """Something inside the network that nobody may reach through us; it counts who does."""
    reached: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    assert not reached


@pytest.fixture(scope="module")
def system(start_system: StartSystem, listener: http.server.HTTPServer) -> System:
    hosts = f"http://127.0.0.1:{listener.server_port} http://localhost:{listener.server_port}"
    return start_system(itl_ms=2, ttft_ms=5, image_hosts=hosts)


def ask(system: System, messages: list[Any], tokens: int = 30) -> str:
    with client(system.url) as official:
        answer = official.chat.completions.create(model=MODEL, messages=messages, max_tokens=tokens)
    return answer.choices[0].message.content or ""


def expected(messages: list[Any], tokens: int = 30) -> str:
    return reference_text(prompt_of(json.dumps({"messages": messages}).encode()), 0, tokens)


@pytest.mark.parametrize(("kind", "media_type"), MEDIA_TYPES.items())
def test_images_of_every_kind_are_seen(system: System, kind: str, media_type: str) -> None:
    messages = user("what is this?", image_part(data_uri(picture(kind, 300, 200), media_type)))
    assert ask(system, messages) == expected(messages)


def test_three_images_of_megabytes_arrive_intact(system: System) -> None:
    images = [padded(picture("PNG", 700, 700 + more), 1_500_000) for more in range(3)]
    messages = user("compare", *(image_part(data_uri(image)) for image in images))
    assert 5 * MIB < len(json.dumps(messages)) < 7 * MIB
    assert ask(system, messages) == expected(messages)
    other = user("compare", *(image_part(data_uri(image)) for image in (*images[:2], images[2][:-1] + b"\1")))
    assert expected(other) != expected(messages), "one byte makes a difference"
    assert ask(system, other) == expected(other)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_inside_is_not_reached_even_if_it_is_listed(
    system: System, listener: http.server.HTTPServer, host: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(system, user(image_part(f"http://{host}:{listener.server_port}/secret")))
    assert (refused.value.code, refused.value.param) == (
        "failed_to_download_image",
        "messages[0].content[0].image_url",
    )


def test_a_host_that_is_not_listed_is_refused(system: System) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(system, user(image_part("https://example.com/a.png")))
    assert refused.value.code == "invalid_image"
