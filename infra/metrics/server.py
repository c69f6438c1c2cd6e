"""`GET /metrics` on a port of a process's own, for roles that serve no HTTP and for one edge of several.

In the process's event loop: what a page shows is never read while it changes.
"""

from __future__ import annotations

import asyncio
import errno
from http import HTTPStatus

from infra.logs import get_logger
from infra.metrics.page import Page

PORTS_TRIED = 64
"""Processes of one role on one machine, each with a port of its own."""

HEAD_BYTES_MAX = 16 << 10
PATIENCE_S = 5.0
"""For a request's head, and for its client to take the page."""

CONNECTIONS_MAX = 32

_log = get_logger("metrics")


class PageServer:
    """Serves one page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._open = 0
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, first_port: int) -> None:
        """Listens on the first port that is free, from this one on. Raises OSError."""
        for port in range(first_port, min(first_port + PORTS_TRIED, 65536)):
            try:
                self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_BYTES_MAX)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self.port = port
                _log.info("metrics", url=f"http://{host}:{port}/metrics")
                return
        raise OSError(errno.EADDRINUSE, f"no port is free from {first_port} on")

    def close(self) -> None:
        """Takes no more connections."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._open <= CONNECTIONS_MAX:
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(head.decode("latin-1")))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _log.debug("a scrape broke off", error=repr(error))
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, head: str) -> bytes:
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET\n")
        if path != "/metrics":
            return _response(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics is all there is\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        page, content_type = await self._page.render(headers.get("accept", ""))
        return _response(HTTPStatus.OK, content_type, page, is_head=method == "HEAD")


def _response(status: HTTPStatus, content_type: str, body: bytes, *, is_head: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else body)
