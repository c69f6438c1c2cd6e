"""`python -m scheduler`: one scheduler process, wired."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from infra.bus import Bus
from infra.jetstream import JetStream
from infra.lifecycle import RoleContext, run_role
from infra.logs import get_logger
from infra.settings import Settings
from scheduler.limits import Limits
from scheduler.service import SchedulerService
from schemas import dispatch, streams
from schemas.errors import BrokerAway

START_PAUSE_S = 0.5
"""Between two tries to make the streams at the start; an election takes seconds."""

_log = get_logger("scheduler")


async def serve(context: RoleContext) -> None:
    """Runs a scheduler until it is told to stop, then hands leadership over at once."""
    settings = context.settings
    bus = await Bus.connect(settings.nats_url, name=context.id, fail=context.fail)
    try:
        js = JetStream(bus)
        await _first_streams(js, settings)
        limits = limits_of(settings, payload_max=bus.max_payload)
        service = SchedulerService(context, js, limits, partial(ensure_streams, js, settings))
        try:
            service.start()
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


async def ensure_streams(js: JetStream, settings: Settings) -> None:
    """Makes the two authorities, what files and batches are kept in, and the buckets where they are missing.

    Raises StreamMismatch if they differ from the settings.
    """
    replicas = _replicas(settings)
    requests = streams.requests_stream(
        queue_max=settings.queue_max, queue_bytes_max=settings.queue_bytes_max, replicas=replicas
    )
    output = streams.output_stream(
        output_bytes_max=settings.output_bytes_max,
        retention_s=settings.request_timeout_max_s + settings.result_ttl_s,
        # Sequences must not repeat after the stream was lost; three more digits leave room for a million a second.
        first_seq=int(time.time() * 1000) * 1000,
        # That profile syncs every append of the server: too slow for tokens.
        memory=settings.broker_profile == "durable",
        replicas=replicas,
    )
    leader = streams.bucket_stream(streams.LEADER_BUCKET, ttl_s=settings.leader_ttl_s, replicas=replicas)
    models = streams.bucket_stream(
        streams.MODELS_BUCKET, ttl_s=settings.request_timeout_max_s, replicas=replicas
    )
    dead = streams.dead_stream(
        dead_bytes_max=settings.dead_bytes_max, dead_ttl_s=settings.dead_ttl_s, replicas=replicas
    )
    responses = streams.responses_stream(
        responses_bytes_max=settings.responses_bytes_max,
        retention_s=settings.request_timeout_max_s + settings.result_ttl_s,
        replicas=replicas,
    )
    config = streams.bucket_stream(streams.CONFIG_BUCKET, replicas=replicas)
    rates = streams.rates_stream(replicas=replicas)
    counts = streams.counts_stream(replicas=replicas)
    kept = (requests, output, dead, responses, leader, models, config, rates, counts)
    for spec in (*kept, *_of_files(settings, replicas)):
        await js.ensure_stream(spec)
    await js.ensure_consumer(streams.batches_consumer())


def _of_files(settings: Settings, replicas: int) -> list[streams.StreamSpec]:
    ttl_s = settings.file_ttl_s
    return [
        streams.files_stream(files_bytes_max=settings.files_bytes_max, file_ttl_s=ttl_s, replicas=replicas),
        streams.batches_stream(replicas=replicas),
        streams.bucket_stream(streams.FILES_BUCKET, ttl_s=ttl_s, replicas=replicas),
        streams.bucket_stream(streams.BATCHES_BUCKET, ttl_s=ttl_s, replicas=replicas),
    ]


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
        batch_window_s=settings.batch_window_ms / streams.MS_PER_S,
        batch_size_max=settings.batch_size_max,
        batch_bytes_max=min(settings.batch_bytes_max, room),
        tenant_queue_max=settings.tenant_queue_max,
        model_queue_max=settings.model_queue_max,
    )


def _replicas(settings: Settings) -> int:
    return 3 if settings.broker_profile == "cluster" else 1


if __name__ == "__main__":
    run_role("scheduler", serve)
