"""Reads of output logs that a worker's core asks for, and what came of them."""

from __future__ import annotations

from collections.abc import Callable

from infra.logs import get_logger
from infra.output_log import OutputLog, decode_entry, stored_at
from schemas.errors import BrokerAway, BrokerRefused
from schemas.output import Tok
from workers.events import CtlRead, Event, LogRead, ReadCtl, ReadFailed, ReadLog
from workers.tracing import Spans

log = get_logger("worker")


class LogReads:
    """Feeds the core: each read ends with an event. `spans` hears of what went before a traced attempt."""

    def __init__(self, output: OutputLog, spans: Spans, feed: Callable[[Event], None]) -> None:
        self._output = output
        self._spans = spans
        self._feed = feed

    async def ctl(self, read: ReadCtl) -> None:
        """The newest ctl record of a request."""
        try:
            last = await self._output.last_ctl(read.tenant, read.rid)
        except (BrokerAway, BrokerRefused, ValueError) as error:
            self._failed(read, error)
        else:
            seq, record = (0, None) if last is None else last
            assert not isinstance(record, Tok), "a ctl subject holds ctl records"
            self._feed(CtlRead(read.key, read.op, seq, record))

    async def whole(self, read: ReadLog) -> None:
        """A request's log, up to where the core wants it."""
        try:
            stored = await self._output.read_stored(read.tenant, read.rid, upto_seq=read.upto_seq)
            entries = [decode_entry(one) for one in stored]
        except (BrokerAway, BrokerRefused, ValueError) as error:
            self._failed(read, error)
        else:
            if read.key in self._spans.watched and entries and entries[-1].seq == read.upto_seq:
                self._spans.read(read.key, entries, [stored_at(one) for one in stored])
            self._feed(LogRead(read.key, read.op, entries))

    def _failed(self, read: ReadCtl | ReadLog, error: Exception) -> None:
        log.warning(
            "output log not read",
            tenant=read.tenant,
            rid=read.rid,
            error=f"{type(error).__name__}: {error}",
        )
        self._feed(ReadFailed(read.key, read.op, isinstance(error, ValueError)))
