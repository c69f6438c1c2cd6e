"""`penstock chat` against a server that says what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra.chat import ChatError, chat_once

DONE = "data: [DONE]"


class Server(ThreadingHTTPServer):
    """Answers chats with `frames` and keeps the last request's body."""

    frames: list[str]
    models: list[list[str]]
    status = 200
    body: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        models = self.server.models.pop(0)
        self._answer(200, json.dumps({"data": [{"id": model} for model in models]}))

    def do_POST(self) -> None:
        self.server.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(self.server.status, "".join(f"{frame}\n\n" for frame in self.server.frames))

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    # A system that has just started knows no model at first.
    running.models = [[], ["first-model", "second-model"]]
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def delta(text: str) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]})}"


def test_streams_the_answer_and_prints_its_speed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    usage = f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 2}})}"
    server.frames = [": keep-alive", delta("Hello "), delta("you"), usage, DONE]
    chat_once(server.url, None, 5, "Hi")
    out, err = capsys.readouterr()
    assert out == "Hello you\n"
    assert "2 tokens" in err
    assert server.body["model"] == "first-model"
    assert server.body["max_tokens"] == 5
    assert server.body["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_url_that_ends_in_v1_works_too(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.frames = [delta("yes"), DONE]
    chat_once(f"{server.url}/v1/", "m", None, "Hi")
    assert capsys.readouterr().out == "yes\n"


def test_a_stream_without_an_end_is_an_error(server: Server) -> None:
    server.frames = [delta("Hel")]
    with pytest.raises(ChatError, match="broke off without an end"):
        chat_once(server.url, "m", None, "Hi")


def test_an_error_frame_is_shown(server: Server) -> None:
    server.frames = [delta("Hel"), f"data: {json.dumps({'error': {'message': 'the worker was lost'}})}", DONE]
    with pytest.raises(ChatError, match="the worker was lost"):
        chat_once(server.url, "m", None, "Hi")


def test_a_refusal_is_shown_in_the_servers_words(server: Server) -> None:
    server.status = 404
    server.frames = [json.dumps({"error": {"message": "there is no model m"}})]
    with pytest.raises(ChatError, match="404: there is no model m"):
        chat_once(server.url, "m", None, "Hi")


def test_nobody_there(free_port: int) -> None:
    with pytest.raises(ChatError, match="is `penstock up` running"):
        chat_once(f"http://127.0.0.1:{free_port}", "m", None, "Hi")
