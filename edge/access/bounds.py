"""What a connection may take, and which pages may ask."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from infra.settings import Settings

EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-queue-position",
    *(
        f"x-ratelimit-{figure}-{what}"
        for figure in ("limit", "remaining", "reset")
        for what in ("requests", "tokens")
    ),
)
"""What a page may read besides the body."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
PREFLIGHT_S = 600


@dataclass(frozen=True)
class HttpBounds:
    """`head_timeout_s` counts from the first byte of a request, or from the connection's begin, `body_timeout_s` from
    the end of the head."""

    header_bytes_max: int
    head_timeout_s: float
    body_timeout_s: float
    connections_max: int


def bounds_of(settings: Settings) -> HttpBounds:
    """What the settings say."""
    return HttpBounds(
        header_bytes_max=settings.header_bytes_max,
        head_timeout_s=settings.body_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        connections_max=settings.connections_max,
    )


def for_pages(app: ASGIApp, origins: str) -> ASGIApp:
    """`app`, usable by scripts of pages of these origins. It wraps every write of a stream, so without origins there is
    nothing of it. No cookies are involved: a key is a header that a page has to know."""
    if not origins.split():
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins.split(),
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_S,
    )
