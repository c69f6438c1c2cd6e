"""`python -m scheduler`: one scheduler process, wired."""

from __future__ import annotations

import asyncio
from functools import partial

from infra.access import access_of
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.lifecycle import RoleContext, run_role
from infra.logs import get_logger
from infra.majority import stay_with_majority
from infra.settings import Settings
from infra.stream_set import ensure_streams
from scheduler.limits import Limits
from scheduler.service import SchedulerService
from schemas import dispatch
from schemas.errors import BrokerAway
from schemas.streams import MS_PER_S

START_PAUSE_S = 0.5
"""Between two tries to make the streams at the start; an election takes seconds."""

_log = get_logger("scheduler")


async def serve(context: RoleContext) -> None:
    """Runs a scheduler until it is told to stop, then hands leadership over at once."""
    settings = context.settings
    access = access_of(settings, "scheduler")
    bus = await Bus.connect(settings.nats_url, name=context.id, fail=context.fail, access=access)
    context.spawn(stay_with_majority(bus), "majority")
    try:
        js = JetStream(bus)
        await _first_streams(js, settings)
        limits = limits_of(settings, payload_max=bus.max_payload)
        service = SchedulerService(context, js, limits, partial(ensure_streams, js, settings))
        try:
            service.start()
            await context.show_metrics(service.page(), settings.scheduler_metrics_port)
            context.ready()
            await context.stop.wait()
            await service.hand_over()
        finally:
            service.close()
    finally:
        await bus.close()


async def _first_streams(js: JetStream, settings: Settings) -> None:
    """Like `ensure_streams`, and waits for a broker that elects leaders: starting anew would not help."""
    while True:
        try:
            return await ensure_streams(js, settings)
        except BrokerAway as error:
            _log.warning("streams not ensured yet", error=str(error))
        await asyncio.sleep(START_PAUSE_S)


def limits_of(settings: Settings, *, payload_max: int) -> Limits:
    """The settings the core decides by. What goes to a worker must fit into one message of at most `payload_max`."""
    room = max(1, payload_max - dispatch.WORK_OVERHEAD_BYTES)
    return Limits(
        queue_timeout_s=settings.queue_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        request_timeout_max_s=settings.request_timeout_max_s,
        request_bytes_max=min(settings.request_bytes_max, room),
        model_seen_s=settings.model_seen_s,
        ack_wait_s=settings.ack_wait_s,
        offer_timeout_s=settings.offer_timeout_s,
        worker_suspect_s=settings.worker_suspect_s,
        worker_silent_s=settings.worker_silent_s,
        edge_silent_s=settings.edge_silent_s,
        leader_interval_s=settings.leader_interval_s,
        alone_wait_s=settings.alone_wait_s,
        window_lead=settings.window_lead,
        window_bytes_max=settings.window_bytes_max,
        batch_window_s=settings.batch_window_ms / MS_PER_S,
        batch_size_max=settings.batch_size_max,
        batch_bytes_max=min(settings.batch_bytes_max, room),
        tenant_queue_max=settings.tenant_queue_max,
        model_queue_max=settings.model_queue_max,
    )


if __name__ == "__main__":
    run_role("scheduler", serve)
