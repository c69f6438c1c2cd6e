"""`/v1/batches`: create, look at, cancel."""

from __future__ import annotations

import os
import time
from typing import Annotated, Literal

import msgspec
from starlette.responses import Response

from edge.batches import records
from edge.batches.asking import CLASS
from edge.batches.contents import Contents
from edge.batches.failures import FILES_FULL, as_json
from edge.batches.files_api import PURPOSE, FilesApi
from edge.batches.listing import list_page
from edge.batches.patience import patiently
from edge.batches.quota import FilesQuota
from edge.batches.records import COMPLETION_WINDOW_S, BatchObject, BatchRecord, Url
from edge.batches.shelf import Shelf
from edge.call import Call
from edge.errors import Problem
from infra.jetstream import FULL, JetStream
from infra.settings import Settings
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RID_BYTES, request_id
from schemas.streams import BATCHES, BATCHES_OPEN_MAX

LIST_DEFAULT = 20
LIST_MAX = 100
"""Batches on one page, as OpenAI's API has it."""

MISSING = Problem("not_found", "there is no such batch; it may have expired")

MetaKey = Annotated[str, msgspec.Meta(max_length=64)]
MetaValue = Annotated[str, msgspec.Meta(max_length=512)]


class ExpiresAfter(msgspec.Struct, frozen=True):
    """How long the files of a batch are kept, at most."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=1)]


class CreateBatch(msgspec.Struct, frozen=True):
    """The body of a new batch."""

    input_file_id: str
    endpoint: Url
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetaKey, MetaValue], msgspec.Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


_create = msgspec.json.Decoder(CreateBatch)


class BatchesApi:
    """The tenant is a part of every look-up: another one's batch does not exist."""

    def __init__(
        self,
        settings: Settings,
        js: JetStream,
        contents: Contents,
        files: FilesApi,
        batches: Shelf[BatchRecord],
        quota: FilesQuota,
    ) -> None:
        self._settings = settings
        self._js = js
        self._contents = contents
        self._files = files
        self._batches = batches
        self._quota = quota

    async def create(self, call: Call) -> Response | Problem:
        """A batch is there once its message is in the work queue: whatever dies then, it runs."""
        if CLASS not in call.caller.classes:
            return Problem("not_allowed", f"this key may not ask for the class {CLASS}")
        body = _decode(call.body)
        if isinstance(body, Problem):
            return body
        file = await self._files.find(call.caller.tenant, body.input_file_id)
        if isinstance(file, Problem):
            return Problem("not_found", file.message, "input_file_id")
        if file.file.purpose != PURPOSE:
            return Problem("bad_request", f"the file's purpose must be {PURPOSE}", "input_file_id")
        if not await self._contents.has_room():
            return FILES_FULL
        refusal = await self._quota.refusal(call.caller.tenant)
        if refusal is not None:
            return refusal
        made_at = time.time()
        ttl_s = self._settings.file_ttl_s
        if body.output_expires_after is not None:
            ttl_s = min(ttl_s, body.output_expires_after.seconds)
        batch = BatchObject(
            id=f"batch_{request_id(os.urandom(RID_BYTES))}",
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            created_at=int(made_at),
            # Without its input it could not go on.
            expires_at=min(int(made_at) + COMPLETION_WINDOW_S, file.file.expires_at),
            metadata=body.metadata,
        )
        record = BatchRecord(batch, call.caller.tenant, made_at, int(ttl_s), key=call.caller.key)
        refusal = await patiently(lambda: self._enqueue(record), timeout_s=self._settings.publish_timeout_s)
        if refusal is not None:
            return refusal
        await patiently(
            lambda: self._batches.create(record.tenant, batch.id, record),
            timeout_s=self._settings.publish_timeout_s,
        )
        return as_json(batch)

    async def list_batches(self, call: Call) -> Response | Problem:
        """The tenant's batches."""
        found = await self._batches.all_of(call.caller.tenant)
        dated = [(one.made_at, one.batch) for one in found]
        page = list_page(dated, call.query, limit_default=LIST_DEFAULT, limit_max=LIST_MAX)
        return page if isinstance(page, Problem) else as_json(page)

    async def show(self, call: Call) -> Response | Problem:
        """How it stands."""
        found = await self._batches.get(call.caller.tenant, call.path["batch_id"])
        return MISSING if found is None else as_json(found.batch)

    async def cancel(self, call: Call) -> Response | Problem:
        """Stops it: what is done stays."""
        batch_id = call.path["batch_id"]
        found = await self._batches.get(call.caller.tenant, batch_id)
        if found is not None:
            now = int(time.time())
            found = await self._batches.change(
                call.caller.tenant, batch_id, lambda record: records.cancelled_by_client(record, now)
            )
        if found is None:
            return MISSING
        if found.batch.status in ("completed", "failed", "expired"):
            return Problem("bad_request", f"the batch is {found.batch.status}: there is nothing to cancel")
        return as_json(found.batch)

    async def _enqueue(self, record: BatchRecord) -> Problem | None:
        subject = subjects.batch(record.tenant, record.batch.id)
        ack = await self._js.publish(subject, msgspec.json.encode(record))
        if ack.stored:
            return None
        if ack.err_code == FULL:
            # An earlier try may have been stored, although nobody said so.
            if await self._js.last(BATCHES, subject) is not None:
                return None
            return Problem("queue_full", f"{BATCHES_OPEN_MAX} batches have not ended yet: try again later")
        if 500 <= ack.err_code < 600:
            raise BrokerAway(f"the work queue of batches does not answer: {ack.description}")
        raise BrokerRefused(f"a batch was not stored: {ack.description} ({ack.err_code})")


def _decode(body: bytes) -> CreateBatch | Problem:
    try:
        return _create.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Problem("bad_request", f"invalid request: {error}")
