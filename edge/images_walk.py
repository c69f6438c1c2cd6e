"""What a chat's messages bring along or point at: images to check, and URLs that no engine may be given. Pure.

An engine fetches what a URL names, from inside the network that it runs in. So whatever holds a URL in a part of a
message, whatever that part is called, must hold a `data:` URI when it goes on. Texts are texts, whatever they say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from edge.errors import Problem
from edge.images_data import ImageRules, data_uri_fault
from edge.images_hosts import Host, Target, target_of
from edge.openai_bodies import Message

VALUES_MAX = 20_000
"""In the parts of all messages of a request: to look at more would hold up all streams of this edge for 30 ms."""

BRACKETS_MAX = 100_000
"""In these parts as well, which bounds what they take once decoded. Those in texts count, too: a text with as many has
more tokens than models have room for."""

Path = tuple[str | int, ...]
"""Keys and indexes that lead from a body to a value in it."""

_PART = 4
"""Length of a part's path: `messages`, its index, `content`, its index."""

_TEXTS = ("text", "refusal", "thinking")
_HAS_SCHEME = re.compile(r"[\x00-\x20]*[a-z][a-z0-9+.-]*:[/\\]", re.IGNORECASE)

_any = msgspec.json.Decoder()
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class Remote(NamedTuple):
    """An image to fetch: where the body names it, where it lies, and which entry of the list allows it."""

    path: Path
    target: Target
    host: Host


def param_of(path: Path) -> str:
    """A field of a part as clients are told it: `messages[0].content[1].image_url`."""
    keys = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in path[: _PART + 1]]
    return "".join(keys).removeprefix(".")


def remotes_in(messages: Sequence[Message], rules: ImageRules) -> list[Remote] | Problem:
    """The images that are to be fetched before the request goes on; a problem if it may not go on."""
    strings = _strings(messages)
    if isinstance(strings, Problem):
        return strings
    remotes: list[Remote] = []
    images = 0
    for path, text in strings:
        keys = [key.lower() for key in path[_PART - 1 :] if isinstance(key, str)]
        if not keys or not keys[-1].endswith(("url", "uri")):
            if _HAS_SCHEME.match(text):
                return _remote_url(path)
            continue
        start = text[:11].lower()
        is_image = "image_url" in keys or start == "data:image/"
        images += is_image
        if images > rules.count_max:
            return Problem(
                "invalid_image", f"a request may have at most {rules.count_max} images", param_of(path)
            )
        if start.startswith("data:"):
            fault = data_uri_fault(text, rules) if is_image else None
            if fault is not None:
                return Problem("invalid_image", fault, param_of(path))
        elif is_image:
            remote = _remote(path, text, rules.hosts)
            if isinstance(remote, Problem):
                return remote
            remotes.append(remote)
        else:
            return _remote_url(path)
    return remotes


def with_texts(body: bytes, texts: Sequence[tuple[Path, bytes]]) -> bytes:
    """The body with other strings at these paths, in the order of the body; every other value stays as it is written.

    The new ones need no escapes.
    """
    if not texts[0][0]:
        return b'"%b"' % texts[0][1]
    values: Any = _array.decode(body) if isinstance(texts[0][0][0], int) else _object.decode(body)
    for key, group in groupby(texts, lambda item: item[0][0]):
        values[key] = msgspec.Raw(with_texts(bytes(values[key]), [(path[1:], text) for path, text in group]))
    return _encode(values)


def _strings(messages: Sequence[Message]) -> list[tuple[Path, str]] | Problem:
    """All strings in parts of messages but their texts, in the order of the body."""
    stack: list[tuple[Path, Any]] = []
    brackets = values = 0
    for index, message in enumerate(messages):
        if memoryview(message.content)[0] in b'"n':
            continue
        content = bytes(message.content)
        path: Path = ("messages", index, "content")
        for bracket in (b"[", b"{"):
            # Ten times as fast as to count them, where there are few and megabytes between them.
            place = content.find(bracket)
            while place >= 0 and brackets <= BRACKETS_MAX:
                brackets += 1
                place = content.find(bracket, place + 1)
        if brackets > BRACKETS_MAX:
            return _too_much(path)
        try:
            stack.append((path, _any.decode(content)))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Problem("bad_request", f"the content is not valid JSON: {error}", param_of(path))
    stack.reverse()
    strings: list[tuple[Path, str]] = []
    while stack:
        at, value = stack.pop()
        if isinstance(value, str):
            strings.append((at, value))
        if not isinstance(value, dict | list):
            continue
        values += len(value)
        if values > VALUES_MAX:
            return _too_much(at)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        stack += [((*at, key), inner) for key, inner in items if not _is_text(at, key, inner)][::-1]
    return strings


def _is_text(path: Path, key: str | int, value: object) -> bool:
    return isinstance(value, str) and (key in _TEXTS or (isinstance(key, int) and len(path) < _PART))


def _remote(path: Path, url: str, hosts: Sequence[Host]) -> Remote | Problem:
    target = target_of(url)
    for host in hosts:
        if target is not None and host.matches(target):
            return Remote(path, target, host)
    return Problem(
        "invalid_image",
        "an image must be given as a data: URI"
        + (
            ", or by a URL of a host that this server fetches from"
            if hosts
            else ": remote URLs are not fetched"
        ),
        param_of(path),
    )


def _remote_url(path: Path) -> Problem:
    return Problem("bad_request", "only data: URIs are accepted here: nothing is fetched", param_of(path))


def _too_much(path: Path) -> Problem:
    return Problem("bad_request", "the messages have too many parts", param_of(path))
