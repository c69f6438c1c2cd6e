"""What JetStream says of streams and consumers, for the leader's page: kept from calls that the leader makes anyway,
and from slow ones for the streams that it does not look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from infra import clock
from infra.broker_monitor import Varz, varz
from infra.jetstream import JetStream
from infra.logs import get_logger
from infra.settings import Settings
from infra.stream_set import all_streams
from infra.stream_states import ConsumerState, StreamState
from scheduler import metrics
from schemas.errors import BrokerAway, BrokerRefused
from schemas.streams import OUTPUT, REQUESTS, batches_consumer

INTERVAL_S = 5.0
"""Between two looks at the streams that nobody looks at all the time."""

CONSUMERS_MAX = 600
"""Of 200 models; a page with more is of no use to anybody."""

STALE_S = 3 * INTERVAL_S
"""What was said longer ago is shown no more: the stream or the consumer has gone, or another scheduler leads."""

_STREAM_GAUGES = (
    metrics.STREAM_MESSAGES,
    metrics.STREAM_BYTES,
    metrics.STREAM_FIRST_SEQ,
    metrics.STREAM_LAST_SEQ,
    metrics.STREAM_CONSUMERS,
)
_CONSUMER_GAUGES = (
    metrics.CONSUMER_PENDING,
    metrics.CONSUMER_ACK_PENDING,
    metrics.CONSUMER_REDELIVERED,
    metrics.CONSUMER_WAITING,
    metrics.CONSUMER_DELIVERED_CONSUMER_SEQ,
    metrics.CONSUMER_DELIVERED_STREAM_SEQ,
    metrics.CONSUMER_ACK_FLOOR_CONSUMER_SEQ,
    metrics.CONSUMER_ACK_FLOOR_STREAM_SEQ,
)

_log = get_logger("scheduler")


class Figures:
    """`leads`: whether to ask at all now."""

    def __init__(self, js: JetStream, settings: Settings, leads: Callable[[], bool]) -> None:
        self._js = js
        self._leads = leads
        looked_at = (REQUESTS, OUTPUT)
        names = [spec.name for spec in all_streams(settings, first_seq=1)]
        self._others = [name for name in names if name not in looked_at]
        self._monitor_port = settings.broker_monitor_port
        self._varz: Varz | None = None
        self._streams: dict[str, tuple[float, StreamState]] = {}
        self._consumers: dict[tuple[str, str], tuple[float, ConsumerState]] = {}

    def stream(self, name: str, state: StreamState) -> None:
        """A stream told how it stands."""
        self._streams[name] = clock.now(), state

    def consumer(self, stream: str, name: str, state: ConsumerState) -> None:
        """So did a consumer."""
        key = stream, name
        if key in self._consumers or len(self._consumers) < CONSUMERS_MAX:
            self._consumers[key] = clock.now(), state

    async def poll(self) -> None:
        """Asks the others, for ever."""
        while True:
            if self._leads():
                try:
                    await self._ask()
                except (BrokerAway, BrokerRefused) as error:
                    _log.debug("streams not measured", error=str(error))
            await asyncio.sleep(INTERVAL_S)

    def refresh(self) -> None:
        """Sets what was said."""
        oldest = clock.now() - STALE_S
        self._streams = {name: said for name, said in self._streams.items() if said[0] >= oldest}
        self._consumers = {name: said for name, said in self._consumers.items() if said[0] >= oldest}
        for gauge in (*_STREAM_GAUGES, *_CONSUMER_GAUGES, *metrics.VARZ.values()):
            gauge.clear()
        if not self._leads():
            return
        if self._varz is not None:
            for field, gauge in metrics.VARZ.items():
                gauge.labels(self._varz.server_id).set(getattr(self._varz, field))
        for name, (_, stream) in self._streams.items():
            shown = (stream.messages, stream.bytes, stream.first_seq, stream.last_seq, stream.consumers)
            for gauge, value in zip(_STREAM_GAUGES, shown, strict=True):
                gauge.labels(name).set(value)
        for key, (_, consumer) in self._consumers.items():
            for gauge, value in zip(_CONSUMER_GAUGES, consumer, strict=True):
                gauge.labels(*key).set(value)

    async def _ask(self) -> None:
        for name in self._others:
            self.stream(name, await self._js.usage(name))
        spec = batches_consumer()
        state = await self._js.consumer_state(spec)
        if state is not None:
            self.consumer(spec.stream, spec.name, state)
        if self._monitor_port:
            self._varz = await varz(self._monitor_port)
