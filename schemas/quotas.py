"""Bounds on queued and running requests, in the words that clients are refused with: by an edge, or in an END."""

from __future__ import annotations

QUOTA_EXCEEDED = "quota_exceeded"
"""The reason, a key of `schemas.errors.ERRORS`."""


def tenant_full(queue_max: int) -> str:
    """A tenant has as many requests as it may."""
    return f"this tenant may have {queue_max} requests queued or running at the same time (tenant_queue_max)"


def model_full(name: str, queue_max: int) -> str:
    """There are as many requests for a model as may be."""
    return (
        f"there may be {queue_max} requests for the model `{name}` queued or running at the same time "
        "(model_queue_max)"
    )


def streams_full(streams_max: int) -> str:
    """A key has as many answers open as it may."""
    return f"this key may have {streams_max} answers open at the same time (streams)"


def store_full(what: str, bytes_max: int) -> str:
    """A tenant keeps as much as it may."""
    return f"this tenant may keep {bytes_max} bytes of {what} (tenant_store_share): delete some, or wait"
