"""One connection of a client, with bounds on what it may send and on how long it may take.

uvicorn's protocol parses strictly (two lengths, a length beside chunks, or a control character in a header are refused
by its parser) but has no bound on a head's size or time, none on what surrounds a body, and takes the trailers of a
chunked body for headers. Those are added here; nothing is added to the path of an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from edge.access.bounds import HttpBounds
from edge.errors import Problem, error_headers, error_json

UNREAD_S = 5.0
"""How long the rest of a refused body is read and dropped: closing on unread bytes would take the answer away, too."""

CONNECTIONS_SPARE = 256
"""Connections past the bound that are told so before they are closed."""

FRAMING_PER_BYTE = 16
"""What chunks may take for one byte in them; the smallest chunk takes 6."""

NOT_HTTP = Problem("bad_request", "this is not a valid HTTP request")
HEAD_LATE = Problem("body_timeout", "the head of the request did not come in time")
HEAD_LARGE = "the request's line and headers may have at most {} bytes"
TOO_MANY = Problem("edge_full", "this server has too many connections: try again")


class Connection(HttpToolsProtocol):
    """Refuses with an error of the table and closes. What it refuses has no endpoint yet, so the body is OpenAI's."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: HttpBounds,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds
        self._in_head = True
        self._in_message = False
        self._is_late: asyncio.TimerHandle | None = None
        self._one_too_many = False
        self._fed = 0
        self._taken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        open_now = len(self.connections)
        self._one_too_many = open_now > self._bounds.connections_max
        if open_now > self._bounds.connections_max + CONNECTIONS_SPARE:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_late is None and self._is_idle:
            self._expect_head()
        self._fed += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(NOT_HTTP)
        if self.transport.is_closing():
            return
        if self._in_head and self._in_message:
            if self._fed > self._bounds.header_bytes_max:
                self._refuse(self._head_is_large())
        elif self._fed > self._bounds.header_bytes_max + FRAMING_PER_BYTE * self._taken:
            # Chunk extensions or trailers without end.
            self._refuse(NOT_HTTP)

    def on_message_begin(self) -> None:
        self._in_head = self._in_message = True
        # What came in one piece with the end of the message before is not counted: a bound on memory, not a law.
        self._fed = self._taken = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Past the head it is a trailer: as a header it would say who asks, behind the back of every proxy.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.transport.is_closing() or self.parser.should_upgrade():
            return
        self._expect_nothing()
        self._fed = 0
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head_bytes > self._bounds.header_bytes_max:
            self._refuse(self._head_is_large())
        elif self._one_too_many:
            self._refuse(TOO_MANY)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._taken += len(body)
        if self._newest is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        if self._newest is None or self.parser.should_upgrade():
            return
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            # All of a refused body is dropped: from here on the connection is idle.
            self._expect_nothing()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and not self._in_head and not self.pipeline and not self.transport.is_closing():
            self._expect_nothing()
            self._is_late = self.loop.call_later(UNREAD_S, self.transport.close)

    def _feed(self, data: bytes) -> None:
        """An offer to speak another protocol (Java's client makes it with every request) is declined by answering in
        this one. The parser stops at the end of such a head, and would take the body for the next request."""
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                method = self.parser.get_method()
                if method == b"CONNECT" or not self._is_idle or self.transport.is_closing():
                    return self._refuse(NOT_HTTP)
                line = b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())
                headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
                data = b"".join([line, *headers, b"\r\n", data[offer.args[0] :]])
                self.parser = httptools.HttpRequestParser(self)

    @property
    def _is_idle(self) -> bool:
        """No answer is being made."""
        cycle = self._newest
        return cycle is None or cycle.response_complete

    @property
    def _newest(self) -> RequestResponseCycle | None:
        """Of the last request whose head was taken; uvicorn's own types have none of a connection without any."""
        return self.cycle

    @property
    def _may_answer(self) -> bool:
        """Whether the client takes what is written now for the answer to what it sends."""
        return self._is_idle or (
            self._in_message and not self._in_head and not self.pipeline and not self.cycle.response_started
        )

    def _expect_head(self) -> None:
        self._expect_nothing()
        self._is_late = self.loop.call_later(self._bounds.head_timeout_s, self._on_late_head)

    def _expect_nothing(self) -> None:
        if self._is_late is not None:
            self._is_late.cancel()
            self._is_late = None

    def _on_late_head(self) -> None:
        self._is_late = None
        if self._in_message:
            self._refuse(HEAD_LATE)
        else:
            self.transport.close()

    def _head_is_large(self) -> Problem:
        return Problem("headers_too_large", HEAD_LARGE.format(self._bounds.header_bytes_max))

    def _refuse(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        self._expect_nothing()
        if self._may_answer:
            body = error_json(problem)
            length, close = (b"content-length", b"%d" % len(body)), (b"connection", b"close")
            headers = [*error_headers(problem), length, close]
            lines = [b"%b: %b\r\n" % header for header in headers]
            self.transport.write(b"".join([STATUS_LINE[problem.row.status], *lines, b"\r\n", body]))
        if not self._is_idle:
            self.cycle.disconnected = True
        self.transport.close()
