"""The relay on the bus: subscribes to a request's live records and reads its log when the relay asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from edge import metrics
from edge.relay import Broken, Ended, Output, Relay, Replay, Tokens
from infra.bus import Bus, Subscription
from infra.logs import get_logger
from infra.output_log import OutputLog
from schemas import subjects
from schemas.errors import PenstockError
from schemas.ids import RequestId, TenantKey
from schemas.output import decode_ctl, decode_tok

REPLAYS_MAX = 64
"""Log reads at the same time: after a reconnect every stream of a process wants one."""

_log = get_logger("reader")


@dataclass(frozen=True)
class LogSources:
    """Where all readers of a process read. `fail` ends the process: for a bug that no caller would see."""

    bus: Bus
    log: OutputLog
    fail: Callable[[Exception], None]
    replays: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REPLAYS_MAX))


class LogReader:
    """Hands what the relay of one request puts out to `on_output`, synchronously, as it comes."""

    def __init__(
        self,
        sources: LogSources,
        tenant: TenantKey,
        rid: RequestId,
        on_output: Callable[[Tokens | Ended | Broken], None],
        *,
        whole: bool,
    ) -> None:
        self._sources = sources
        self._tenant = tenant
        self._rid = rid
        self._on_output = on_output
        self._now = asyncio.get_running_loop().time
        self._relay = Relay(self._now(), whole=whole)
        self._subscription: Subscription | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._replay_task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether END has been handed out, or the log was found broken."""
        return self._relay.over

    @property
    def paused(self) -> bool:
        """Whether the client has to take what it was given first."""
        return self._relay.paused

    @property
    def begun(self) -> bool:
        """Whether an attempt was seen; False may only mean that nothing came through yet."""
        return self._relay.begun

    def open(self) -> None:
        """Starts to listen; call it before the request is published, so that no record can come too early."""
        subject = subjects.live(self._tenant, self._rid)
        self._subscription = self._sources.bus.subscribe(subject, self._on_live)
        self._arm()

    def catch_up(self) -> None:
        """There may be a log already: reads it at once."""
        self._perform(self._relay.missed())

    def close(self) -> None:
        """Hands out nothing any more."""
        self._relay.pause()
        if self._subscription is not None:
            self._subscription.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._replay_task is not None:
            self._replay_task.cancel()

    def pause(self) -> None:
        """Hands out nothing until `resume`: the client reads too slowly."""
        self._relay.pause()

    def resume(self) -> None:
        """The client has read everything that was handed out."""
        if self._relay.paused:
            self._perform(self._relay.resume())
            self._arm()

    def _on_live(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        now = self._now()
        try:
            if subjects.is_ctl(subject):
                outputs = self._relay.live_ctl(decode_ctl(payload), now)
            else:
                outputs = self._relay.live_tok(decode_tok(payload), now)
        except ValueError:  # not a record; the log has the last word on what is stored there
            outputs = self._relay.missed()
        self._perform(outputs)

    def _perform(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Replay):
                metrics.REPLAYS.inc()
                self._replay_task = asyncio.create_task(self._replay(output.start_seq))
                self._replay_task.add_done_callback(self._on_replayed)
            else:
                self._on_output(output)

    async def _replay(self, start_seq: int) -> None:
        try:
            async with self._sources.replays:
                entries = await self._sources.log.read(self._tenant, self._rid, start_seq=start_seq)
        except PenstockError as error:
            _log.warning(
                "the output log cannot be read now", tenant=self._tenant, rid=self._rid, error=str(error)
            )
            self._perform(self._relay.replay_failed(self._now()))
        except ValueError:
            self._perform(self._relay.unreadable())
        else:
            for entry in entries:
                self._perform(self._relay.stored(entry))
            self._perform(self._relay.replay_done(self._now()))

    def _on_replayed(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self._sources.fail(error)
        self._arm()

    def _on_timer(self) -> None:
        self._timer = None
        self._perform(self._relay.tick(self._now()))
        self._arm()

    def _arm(self) -> None:
        """The deadline only moves later meanwhile, so the timer may fire early and is set anew then: a token does not
        touch it."""
        deadline = self._relay.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._on_timer)
