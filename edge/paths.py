"""Where a request is found over HTTP. Pure."""

from __future__ import annotations


def request_path(rid: str) -> str:
    """Its state and its result; DELETE cancels it."""
    return f"/v1/requests/{rid}"


def stream_path(rid: str) -> str:
    """Its output as an event stream, from any place on."""
    return f"/v1/requests/{rid}/stream"
