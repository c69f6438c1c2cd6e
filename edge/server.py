"""One edge process: a socket shared with its siblings, an HTTP server, and a drain in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import uvicorn

from edge.access.bounds import for_pages
from edge.access.connection import Connection
from edge.app import EdgeApp
from edge.registry import LEADER_SILENT_S
from edge.service import Edge
from infra.access import access_of
from infra.bus import Bus
from infra.lifecycle import RoleContext
from infra.majority import stay_with_majority

BACKLOG = 4096
"""Connections that wait to be accepted: a burst of clients that all come at once."""

KEEP_ALIVE_TIMEOUT_S = 75
"""Longer than clients keep idle connections in their pools, so that they never write into a closed one."""

LINGER_S = 0.5
"""Open connections are still answered for this long after new ones are taken no more, each for the last time: a client
may have sent its next request already, and to close on it would fail a request that nobody refused."""

LINGER_POLL_S = 0.02

LAST_WORDS_S = 3.0
"""Before the end of a drain: time to tell the streams that are still open where they go on."""


async def serve(context: RoleContext) -> None:
    """Runs until `context.stop`, then lets open streams finish within `drain_timeout_s`."""
    settings = context.settings
    listener = listen(settings.host, settings.port)
    access = access_of(settings, "edge")
    bus = await Bus.connect(settings.nats_url, name=context.id, fail=context.fail, access=access)
    context.spawn(stay_with_majority(bus), "majority")
    edge = Edge(settings, bus, name=context.id, fail=context.fail, tracer=context.tracer)
    edge.start()
    # Its siblings on this port know the models already; one that does not would turn their requests away.
    await edge.first_word(LEADER_SILENT_S)
    last_words_s = min(LAST_WORDS_S, settings.drain_timeout_s / 2)
    server = Server(
        edge,
        linger_s=min(LINGER_S, settings.drain_timeout_s / 10),
        shutdown_timeout_s=settings.drain_timeout_s - last_words_s / 2,
    )
    serving = context.spawn(server.serve(sockets=[listener]), "http")
    await server.accepting.wait()
    await context.show_metrics(edge.scrape.page, settings.edge_metrics_port)
    edge.when_ready(context.ready)
    edge.batches.start()
    await context.stop.wait()
    edge.drain()
    await edge.batches.close()
    server.should_exit = True
    cutter = asyncio.get_running_loop().call_later(settings.drain_timeout_s - last_words_s, edge.cut_off)
    await serving
    cutter.cancel()
    await edge.close(last_words_s / 2)
    await bus.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that other edges may share: the kernel spreads connections over all of them."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    return listener


class Server(uvicorn.Server):
    """uvicorn without its signal handlers (`infra.lifecycle` has them), and with word of when it accepts.

    `shutdown_timeout_s`: connections that are still open then are dropped; one whose client never reads never closes.
    """

    def __init__(self, edge: Edge, *, linger_s: float, shutdown_timeout_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                for_pages(EdgeApp(edge), edge.cors_origins),
                http=cast("type[asyncio.Protocol]", partial(Connection, bounds=edge.bounds)),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_TIMEOUT_S,
                timeout_graceful_shutdown=max(1, int(shutdown_timeout_s)),
            )
        )
        self.accepting = asyncio.Event()
        self._linger_s = linger_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Sets `accepting` once connections are taken."""
        await super().startup(sockets)
        self.accepting.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no new connections, says on the open ones that each answer is the last, and then what uvicorn does."""
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        # What the kernel has queued for this listener it resets when that is closed: taken first, in the same breath.
        queued = [connection for listener in sockets or [] for connection in _queued_at(listener)]
        for server in self.servers:
            server.close()
        for connection in queued:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        linger_until = asyncio.get_running_loop().time() + self._linger_s
        while self.server_state.connections and asyncio.get_running_loop().time() < linger_until:
            await asyncio.sleep(LINGER_POLL_S)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes them."""
        made = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield


def _queued_at(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that are made and not taken yet; `listener` does not block."""
    # There are no more, or no files for more: a drain goes on either way.
    with contextlib.suppress(OSError):
        while True:
            yield listener.accept()[0]
