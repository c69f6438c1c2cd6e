"""Where a request is found over HTTP. Pure."""

from __future__ import annotations

import re

_STREAM = re.compile(r"/v1/requests/([^/]+)/stream")


def request_path(rid: str) -> str:
    """Its state and its result; DELETE cancels it."""
    return f"/v1/requests/{rid}"


def stream_path(rid: str) -> str:
    """Its output as an event stream, from any place on."""
    return f"/v1/requests/{rid}/stream"


def stream_of(path: str) -> str | None:
    """What stands in the place of the rid if `path` is that of a stream."""
    found = _STREAM.fullmatch(path)
    return found[1] if found else None
