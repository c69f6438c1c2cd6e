"""What clients say and are told, keys and ack subjects are in no log, metric or kept trace, whatever goes wrong."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bench.system import System
from bench.transcript import MODEL
from infra.keys import add_key, new_key
from schemas import subjects
from tests.acceptance.canaries import found_in, generated_by, lines_of, said_by
from tests.acceptance.conftest import StartSystem
from tests.acceptance.telling_upstream import TellingUpstream
from tests.pictures import data_uri, padded, picture

PROMPT = "canary said in a prompt 4711"
ARGUMENT = "canary-in-an-argument-4712"
USER = "canary-of-a-user-4713"
KEY = "canary-of-idempotency-4714"
WRONG = "canary-of-a-wrong-key-4715"
BROKEN = "canary-in-broken-json-4716"
PIXELS = "canary-in-the-pixels-4717"
IMAGE_PATH = "canary-in-a-path-4718"
TOKEN = "canary-token-4719-"
UPSTREAM = "canary-of-the-upstream-4720"
UPSTREAM_KEY = "canary-of-the-upstreams-key-4721"
PASSWORD = "canary-of-basic-auth-4722"
CANARIES = [
    PROMPT,
    ARGUMENT,
    USER,
    KEY,
    WRONG,
    BROKEN,
    PIXELS,
    IMAGE_PATH,
    TOKEN,
    UPSTREAM,
    UPSTREAM_KEY,
    PASSWORD,
]

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
WITHIN_S = 30.0
TOKENS = 24

CLOSED_DOORS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")


class Caller:
    """Somebody with a key whose every word is a canary."""

    def __init__(self, url: str, key: str) -> None:
        self.rids: list[str] = []
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """One whole answer; bytes go as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        answer = self.client.post(path, content=content, headers=told)
        if answer.status_code == 200 and (rid := answer.headers.get("x-request-id")):
            self.rids.append(rid)
        return answer

    def chat(
        self, prompt: str = PROMPT, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """A chat of one message."""
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": TOKENS,
            "user": USER,
            **fields,
        }
        return self.post("/v1/chat/completions", {"model": MODEL, **body}, **(headers or {}))


@pytest.fixture(scope="module")
def keyed(start_system: StartSystem, tmp_path_factory: pytest.TempPathFactory) -> tuple[System, str]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    key, text = new_key("canary")
    add_key(file, key)
    system = start_system(
        edges=2,
        workers=3,
        keys_file=file,
        log_level="debug",
        log_format="json",
        itl_ms=5,
        ttft_ms=5,
        step_s_max=1,
        client_buffer_bytes_max=20_000,
        image_hosts="127.0.0.1:9",
    )
    return system, text


@pytest.fixture(scope="module")
def upstream() -> Iterator[TellingUpstream]:
    with TellingUpstream(TOKEN, UPSTREAM) as telling:
        yield telling


@pytest.fixture(scope="module")
def passing_on(start_system: StartSystem, upstream: TellingUpstream) -> System:
    told = upstream.url.replace("://", f"://user:{PASSWORD}@")
    fields = {
        "engine": "openai",
        "upstream": told,
        "upstream_api_key": UPSTREAM_KEY,
        "upstream_model": "told",
    }
    return start_system(**fields, model=MODEL, log_level="debug", log_format="json", strikes_max=2)


def nothing_slipped_out(system: System, *more: str) -> None:
    said = said_by(system)
    assert {name for name, _ in said} >= {"up.log", "penstock.json", "/metrics"}
    assert found_in(said, [*CANARIES, *more, subjects.JS_ACK]) == []


def test_what_was_asked_and_answered_is_nowhere(keyed: tuple[System, str]) -> None:
    system, key = keyed
    with Caller(system.url, key) as caller:
        in_every_dialect(caller)
        in_a_batch(caller)
        with_mistakes(caller, system)
        with_faults(caller, system)
    answers = [*generated_by(PROMPT, TOKENS), *generated_by(f"{PROMPT} killed", 200)]
    nothing_slipped_out(system, key, *answers)

    system.wait_until(
        lambda: {line.get("rid") for line in lines_of(system)} >= set(caller.rids), "every request has a line"
    )
    lines = lines_of(system)
    assert {"broker", "edge", "scheduler", "worker"} <= {line.get("role") for line in lines}
    bare = [line for line in lines if "rid" in line and not ("tenant" in line and "trace_id" in line)]
    assert bare == [], "every line about a request names its tenant and its trace"
    roles = {line["role"] for line in lines if line.get("trace_id") == TRACE_ID}
    assert roles >= {"edge", "worker"}, "the trace that a client began goes on in the logs of all"


def test_what_an_upstream_says_is_nowhere(passing_on: System) -> None:
    with Caller(passing_on.url, "unused") as caller:
        assert TOKEN in caller.chat().text, "it did say it"
        codes = [
            caller.chat(f"{PROMPT} {told}").status_code for told in ("status 400", "status 500", "break off")
        ]
        assert all(code >= 400 for code in codes)
        assert UPSTREAM in caller.chat(f"{PROMPT} status 400").text, "a client is told why"
    nothing_slipped_out(passing_on)


def test_a_canary_that_was_logged_is_found(keyed: tuple[System, str]) -> None:
    for number, form in enumerate(
        [
            f"plain {PROMPT}".encode(),
            json.dumps({"message": f'"{PROMPT}"'}).encode(),
            base64.b64encode(f"x{PROMPT} and more".encode()),
            base64.b64encode(f"xx{PROMPT} and more".encode()),
            PROMPT.replace(" ", "%20").encode(),
        ]
    ):
        assert found_in([("a log", b"before " + form + b" after")], [PROMPT]), number
    assert found_in([("a log", b"ack=" + subjects.JS_ACK.encode() + b"REQUESTS.x")], [subjects.JS_ACK])
    assert found_in(
        [("a log", b"said: " + generated_by(PROMPT, TOKENS)[3].encode())], generated_by(PROMPT, TOKENS)
    )
    assert not found_in([("a log", b"nothing of the kind")], [*CANARIES, *generated_by(PROMPT, TOKENS)])
    # Where the other tests look, among what is there.
    system, _ = keyed
    planted = system.store / "traces" / "planted.jsonl"
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(json.dumps({"event": "oops", "key": KEY}))
    try:
        assert len(found_in(said_by(system), CANARIES)) == 1
    finally:
        planted.unlink()


def in_every_dialect(caller: Caller) -> None:
    """Whole and streamed; with tools, an image, a key, a user, and a trace of the caller's own."""
    tools = [{"type": "function", "function": {"name": "look", "description": ARGUMENT, "parameters": {}}}]
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps({"at": ARGUMENT})},
    }
    image = data_uri(padded(picture("PNG"), 400) + PIXELS.encode() + bytes(40))
    messages = [
        {"role": "user", "content": [text_part(), {"type": "image_url", "image_url": {"url": image}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": ARGUMENT},
    ]
    rich = {"model": MODEL, "messages": messages, "tools": tools, "max_tokens": TOKENS, "user": USER}
    said = {"model": MODEL, "max_tokens": TOKENS}
    message = {"role": "user", "content": PROMPT}
    answers = [
        caller.chat(headers={"traceparent": TRACEPARENT}),
        caller.chat(headers={"Idempotency-Key": KEY}),
        caller.chat(headers={"Idempotency-Key": KEY}),
        caller.chat(stream=True),
        caller.post("/v1/chat/completions", rich),
        caller.post("/v1/completions", {**said, "prompt": PROMPT, "user": USER}),
        caller.post("/v1/embeddings", {"model": MODEL, "input": PROMPT}),
        caller.post("/v1/responses", {"model": MODEL, "input": PROMPT, "max_output_tokens": TOKENS}),
        caller.post("/v1/messages", {**said, "messages": [message], "metadata": {"user_id": USER}}),
        caller.post("/v1/messages/count_tokens", {"model": MODEL, "messages": [message]}),
        caller.post("/v1/predict", {"messages": [message], "n_predict": TOKENS, "request_id": f"{KEY}-too"}),
        caller.post("/v1/generate", {"prompt": PROMPT, "max_tokens": TOKENS}),
        caller.post("/generate", {"prompt": PROMPT, "max_tokens": TOKENS}),
    ]
    told = [(answer.request.url.path, answer.status_code, answer.text[:200]) for answer in answers]
    assert [row for row in told if row[1] not in (200, 202, 501)] == []


def in_a_batch(caller: Caller) -> None:
    """One line that is right, one that is not, one that is no JSON."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS}
    line = {"custom_id": KEY, "method": "POST", "url": "/v1/chat/completions", "body": body}
    for lines in ([json.dumps(line)], [json.dumps({**line, "url": BROKEN})], [f'{{"{BROKEN}']):
        uploaded = caller.client.post(
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": (f"{USER}.jsonl", "\n".join(lines).encode())},
        )
        assert uploaded.status_code == 200, uploaded.text
        asked = {"input_file_id": uploaded.json()["id"], "endpoint": line["url"], "completion_window": "24h"}
        batch = caller.client.post("/v1/batches", json={**asked, "metadata": {"note": PROMPT}}).json()
        until(
            lambda batch=batch: caller.client.get(f"/v1/batches/{batch['id']}").json()["status"] in OVER,
            "over",
        )


OVER = ("completed", "failed", "expired", "cancelled")


def with_mistakes(caller: Caller, system: System) -> None:
    """What the edge itself refuses."""
    for door in CLOSED_DOORS:
        for body in (
            f'{{"model": "{BROKEN}',
            json.dumps({"model": BROKEN, "messages": BROKEN, "prompt": {}}),
        ):
            assert 400 <= caller.post(door, body.encode()).status_code < 500
        wrong = httpx.post(
            f"{system.url}{door}", json={"x": BROKEN}, headers={"Authorization": f"Bearer {WRONG}"}
        )
        assert wrong.status_code == 401
    for url in (f"https://127.0.0.1:9/{IMAGE_PATH}", f"data:image/png;base64,{BROKEN}"):
        content = [text_part(), {"type": "image_url", "image_url": {"url": url}}]
        assert caller.chat(messages=[{"role": "user", "content": content}]).status_code == 400
    assert caller.chat("other", headers={"Idempotency-Key": KEY}).status_code == 422
    assert caller.chat(max_tokens=BROKEN).status_code == 400
    assert caller.client.get(f"/v1/requests/{KEY}").status_code in (400, 404)
    assert caller.client.get(f"/v1/files/{KEY}", params={"at": PROMPT}).status_code == 404


def with_faults(caller: Caller, system: System) -> None:
    """What goes wrong behind it."""
    for fault in ("raise_at_token", "die_at_token", "oom_at_token", "hang_at_token"):
        answer = caller.chat(penstock_fault={fault: 2})
        assert answer.status_code >= 500, answer.text
    system.wait_ready("worker", 3)
    cancelled_at_once(caller)
    read_slowly(caller)
    # Its worker is killed; the answer is whole all the same.
    with caller.client.stream(
        "POST", "/v1/chat/completions", json=streamed(f"{PROMPT} killed", 200)
    ) as answer:
        pieces = answer.iter_text()
        next(pieces)
        for worker in system.processes("worker")[:2]:
            system.kill(worker)
        assert "[DONE]" in "".join(pieces)
    system.wait_ready("worker", 3)


def cancelled_at_once(caller: Caller) -> None:
    with caller.client.stream("POST", "/v1/chat/completions", json=streamed(PROMPT, 2000)) as answer:
        next(answer.iter_text())
        rid = answer.headers["x-request-id"]
        assert caller.client.delete(f"/v1/requests/{rid}").status_code == 200
    # And one whose client goes away.
    with caller.client.stream("POST", "/v1/chat/completions", json=streamed(PROMPT, 2000)) as answer:
        next(answer.iter_text())


def read_slowly(caller: Caller) -> None:
    """Until the edge has more for it than it holds for one client."""
    address = urlsplit(str(caller.client.base_url))
    body = json.dumps(streamed(PROMPT, 1500)).encode()
    with contextlib.closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        key = caller.client.headers["authorization"]
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {key}"
        connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(64).startswith(b"HTTP/1.1 200")


def streamed(prompt: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens, "stream": True, "user": USER}


def text_part() -> dict[str, str]:
    return {"type": "text", "text": PROMPT}


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
