"""All streams and buckets, as the settings have them: there is no other list."""

from __future__ import annotations

import time

from infra.jetstream import JetStream
from infra.settings import Settings
from schemas import streams
from schemas.streams import StreamSpec


async def ensure_streams(js: JetStream, settings: Settings) -> None:
    """Makes the streams where they are missing, and the one consumer that is not a model's.

    Raises StreamMismatch if they differ from the settings.
    """
    # Sequences must not repeat after the stream was lost; three more digits leave room for a million a second.
    for spec in all_streams(settings, first_seq=int(time.time() * 1000) * 1000):
        await js.ensure_stream(spec)
    await js.ensure_consumer(streams.batches_consumer())


def all_streams(settings: Settings, *, first_seq: int) -> list[StreamSpec]:
    """The two authorities, what is kept beside them, and the buckets. `first_seq`: OUTPUT's, if it is made now."""
    replicas = 3 if settings.broker_profile == "cluster" else 1
    kept_s = settings.request_timeout_max_s + settings.result_ttl_s
    file_ttl_s = settings.file_ttl_s
    return [
        streams.requests_stream(
            queue_max=settings.queue_max, queue_bytes_max=settings.queue_bytes_max, replicas=replicas
        ),
        streams.output_stream(
            output_bytes_max=settings.output_bytes_max,
            retention_s=kept_s,
            first_seq=first_seq,
            # That profile syncs every append of the server: too slow for tokens.
            memory=settings.broker_profile == "durable",
            replicas=replicas,
        ),
        streams.dead_stream(
            dead_bytes_max=settings.dead_bytes_max, dead_ttl_s=settings.dead_ttl_s, replicas=replicas
        ),
        streams.responses_stream(
            responses_bytes_max=settings.responses_bytes_max, retention_s=kept_s, replicas=replicas
        ),
        streams.bucket_stream(streams.LEADER_BUCKET, ttl_s=settings.leader_ttl_s, replicas=replicas),
        streams.bucket_stream(streams.MODELS_BUCKET, ttl_s=settings.request_timeout_max_s, replicas=replicas),
        streams.bucket_stream(streams.CONFIG_BUCKET, replicas=replicas),
        streams.rates_stream(replicas=replicas),
        streams.counts_stream(replicas=replicas),
        streams.files_stream(
            files_bytes_max=settings.files_bytes_max, file_ttl_s=file_ttl_s, replicas=replicas
        ),
        streams.batches_stream(replicas=replicas),
        streams.bucket_stream(streams.FILES_BUCKET, ttl_s=file_ttl_s, replicas=replicas),
        streams.bucket_stream(streams.BATCHES_BUCKET, ttl_s=file_ttl_s, replicas=replicas),
    ]
