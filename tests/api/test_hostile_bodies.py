"""Bodies that nobody means well with, at every endpoint that takes one: each is a documented 4xx in the endpoint's own
shape, and the next request is answered as if nothing had been."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from bench.system import System
from edge.openapi.__main__ import described
from tests.api.conftest import BODY_BYTES_MAX

DOCUMENT: dict[str, Any] = described()
POSTS = sorted(path for path, methods in DOCUMENT["paths"].items() if "post" in methods)

DEEP = 100_000

HOSTILE = {
    "nothing": b"",
    "white space": b" \n\t ",
    "no JSON": b"model=nobody&messages=hello",
    "half an object": b'{"model": "nobody", "messages": [',
    "two objects": b'{"model": "nobody"}{"model": "nobody"}',
    "an array": b"[]",
    "an array of objects": b'[{"model": "nobody"}]',
    "null": b"null",
    "a text": b'"model"',
    "a number": b"7",
    "true": b"true",
    "a number out of range": b"1e999",
    "not a number": b'{"model": "nobody", "temperature": NaN}',
    "infinity": b'{"model": "nobody", "temperature": Infinity}',
    "deep arrays": b"[" * DEEP,
    "deep closed arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a byte order mark": b'\xef\xbb\xbf{"model": "nobody"}',
    "UTF-16": '{"model": "nobody"}'.encode("utf-16"),
    "bytes that are no text": b"\xff\xfe\x00\x80",
    "a text that is no UTF-8": b'{"model": "\xff\xfe"}',
    "an overlong NUL": b'{"model": "\xc0\x80"}',
    "a surrogate in UTF-8": b'{"model": "\xed\xa0\x80"}',
    "half a surrogate pair": b'{"model": "\\ud800"}',
    "a surrogate pair the wrong way round": b'{"model": "\\udc00\\ud800"}',
    "a bare NUL": b'{"model": "\x00"}',
    "an escaped NUL": b'{"model": "\\u0000"}',
    "a bare line end": b'{"model": "a\nb"}',
    "a model that nobody has": b'{"model": "nobody"}',
    "a model with the characters of subjects": b'{"model": "a.*.>"}',
    "a key twice": b'{"model": 1, "model": "nobody", "messages": 1, "messages": []}',
    "compressed": gzip.compress(b'{"model": "nobody"}'),
    "a comment": b'{"model": "nobody"} // please',
}

FIELDS = {
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a number out of range": b"1e999",
    "a number of 400 digits": b"1" + b"0" * 400,
    "a negative one": b"-1" + b"0" * 400,
    "a long fraction": b"0." + b"1" * 10_000,
    "an object": b'{"": {}}',
    "half a surrogate pair": b'"\\ud800"',
    "no UTF-8": b'"\xff"',
}
"""As the value of every field that an endpoint has a word for, one after the other."""


@pytest.fixture(scope="module")
def http(system: System) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.url, timeout=30) as client:
        yield client
        well = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hello"}]})
        assert well.status_code == 200, "it goes on"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies(http: httpx.Client, path: str, name: str) -> None:
    assert_refused(post(http, path, HOSTILE[name]), path)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", FIELDS)
def test_hostile_fields(http: httpx.Client, path: str, name: str) -> None:
    for field in fields_of(path):
        body = b'{"model": "nobody", %b: %b}' % (json.dumps(field).encode(), FIELDS[name])
        assert_refused(post(http, path, body), path)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("said", ["text/plain", "application/xml", "multipart/form-data", "nonsense", ""])
def test_hostile_content_types(http: httpx.Client, path: str, said: str) -> None:
    assert_refused(post(http, path, b"<model>nobody</model>", {"content-type": said}), path)


@pytest.mark.parametrize("path", POSTS)
def test_too_large_bodies(http: httpx.Client, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(2 * BODY_BYTES_MAX // 65_536):
            yield b"#" * 65_536

    assert_refused(post(http, path, b"#" * (BODY_BYTES_MAX + 1)), path)
    assert_refused(post(http, path, chunks()), path)


def post(
    http: httpx.Client, path: str, body: bytes | Iterator[bytes], headers: dict[str, str] | None = None
) -> httpx.Response:
    # Whatever a path names does not exist.
    url = re.sub(r"\{\w+\}", "a" * 26, path)
    return http.post(url, content=body, headers={"content-type": "application/json", **(headers or {})})


def assert_refused(response: httpx.Response, path: str) -> None:
    """A 4xx that the document tells of, in the shape that it tells of."""
    assert 400 <= response.status_code < 500, response.text
    told = DOCUMENT["paths"][path]["post"]["responses"]
    assert str(response.status_code) in told, f"{response.status_code} is not documented: {response.text}"
    assert response.headers["content-type"].startswith("application/json")
    schema = told[str(response.status_code)]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**schema, "components": DOCUMENT["components"]})


def fields_of(path: str) -> list[str]:
    """The fields of a JSON body that the document has a word for."""
    body = DOCUMENT["paths"][path]["post"].get("requestBody", {"content": {}})
    schema = body["content"].get("application/json", {}).get("schema", {})
    return sorted(resolve(schema).get("properties", {}))


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name] if name else schema
