"""`/v1/files`: upload, look at, read, delete."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from typing import Literal

import msgspec
from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse

from edge.batches.contents import PART_BYTES, ContentGoneError, Contents, Part
from edge.batches.failures import FILES_FULL, as_json
from edge.batches.listing import list_page
from edge.batches.patience import patiently
from edge.batches.quota import FilesQuota
from edge.batches.records import FileObject, FileRecord
from edge.batches.shelf import Shelf
from edge.batches.upload import Upload, read_upload
from edge.call import Call
from edge.errors import Problem
from infra.logs import get_logger
from infra.settings import Settings
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RID_BYTES, TenantKey, request_id

PURPOSE = "batch"
UPLOADS_MAX = 16
"""At one edge at the same time: each may fill a temporary file."""

UPLOADS_OF_TENANT_MAX = 8
"""Of these, so that no tenant takes all places."""

LIST_MAX = 10_000
"""Files on one page, as OpenAI's API has it."""

MISSING = Problem("not_found", "there is no such file; it may have expired")
_AGES = Problem("bad_request", "expires_after must have anchor created_at and whole seconds", "expires_after")
_SECONDS = re.compile(r"[1-9][0-9]{0,9}")

_log = get_logger("files")


class FileDeleted(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    object: str = "file"
    deleted: bool = True


class UploadForm(msgspec.Struct, frozen=True):
    """The parts of an upload. It expires that many seconds after it was made, or as late as anything does."""

    file: bytes
    purpose: Literal["batch"]
    anchor: Literal["created_at"] | msgspec.UnsetType = msgspec.field(
        default=msgspec.UNSET, name="expires_after[anchor]"
    )
    seconds: int | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="expires_after[seconds]")


class FilesApi:
    """The tenant is a part of every look-up: another one's file does not exist."""

    def __init__(
        self, settings: Settings, contents: Contents, files: Shelf[FileRecord], quota: FilesQuota
    ) -> None:
        self._settings = settings
        self._contents = contents
        self._files = files
        self._quota = quota
        self._uploads: Counter[TenantKey] = Counter()

    async def upload(self, call: Call) -> Response | Problem:
        """Stores a file: its parts first, so that what can be found is whole."""
        assert call.request is not None, "the endpoint reads its body itself"
        tenant = call.caller.tenant
        if self._uploads[tenant] >= UPLOADS_OF_TENANT_MAX or self._uploads.total() >= UPLOADS_MAX:
            return Problem("edge_full", "this server takes no more uploads at the same time: try again")
        self._uploads[tenant] += 1
        try:
            upload = await read_upload(
                call.request,
                bytes_max=int(self._settings.file_bytes_max),
                idle_s=self._settings.body_timeout_s,
            )
            if isinstance(upload, Problem):
                return upload
            try:
                return await self._keep(tenant, upload)
            finally:
                await upload.file.close()
        finally:
            self._uploads -= Counter((tenant,))  # in place this drops those that have none

    async def list_files(self, call: Call) -> Response | Problem:
        """The tenant's files."""
        purpose = call.query.get("purpose")
        found = await self._files.all_of(call.caller.tenant)
        dated = [
            (one.made_at, one.file) for one in found if _is_live(one) and purpose in (None, one.file.purpose)
        ]
        page = list_page(dated, call.query, limit_default=LIST_MAX, limit_max=LIST_MAX)
        return page if isinstance(page, Problem) else as_json(page)

    async def show(self, call: Call) -> Response | Problem:
        """One file."""
        found = await self.find(call.caller.tenant, call.path["file_id"])
        return found if isinstance(found, Problem) else as_json(found.file)

    async def content(self, call: Call) -> Response | Problem:
        """Its bytes."""
        found = await self.find(call.caller.tenant, call.path["file_id"])
        if isinstance(found, Problem):
            return found
        size = found.file.bytes
        parts = self._contents.parts(call.caller.tenant, found.content, size=size, outcome=found.outcome)
        try:
            # Before the head goes out: until then a broker that is away can be told by a status.
            first = await anext(parts)
        except ContentGoneError:
            return MISSING
        return StreamingResponse(
            _bytes(first, parts),
            media_type="application/octet-stream",
            headers={"content-length": str(size)},
        )

    async def delete(self, call: Call) -> Response | Problem:
        """Deletes a file; the results of a batch go with the second of its files."""
        tenant = call.caller.tenant
        found = await self.find(tenant, call.path["file_id"])
        if isinstance(found, Problem):
            return found
        await self._files.drop(tenant, found.file.id)
        if found.twin is None or await self._files.get(tenant, found.twin) is None:
            await self._contents.drop(tenant, found.content)
        return as_json(FileDeleted(found.file.id))

    async def find(self, tenant: TenantKey, file_id: str) -> FileRecord | Problem:
        """A file that has not expired."""
        found = await self._files.get(tenant, file_id)
        return found if found is not None and _is_live(found) else MISSING

    async def _keep(self, tenant: TenantKey, upload: Upload) -> Response | Problem:
        purpose = upload.fields.get("purpose")
        if purpose != PURPOSE:
            return Problem("bad_request", f"purpose must be {PURPOSE}", "purpose")
        ttl_s = _ttl_s(upload.fields, self._settings.file_ttl_s)
        if isinstance(ttl_s, Problem):
            return ttl_s
        if not await self._contents.has_room():
            return FILES_FULL
        refusal = await self._quota.refusal(tenant, upload.size)
        if refusal is not None:
            return refusal
        file_id = f"file-{request_id(os.urandom(RID_BYTES))}"
        made_at = time.time()
        file = FileObject(
            id=file_id,
            bytes=upload.size,
            created_at=int(made_at),
            expires_at=int(made_at + ttl_s),
            filename=upload.filename,
            purpose=purpose,
        )
        try:
            await self._store(tenant, file_id, upload.file)
            await self._files.put(tenant, file_id, FileRecord(file, file_id, made_at))
            # Once more, with its record: of uploads that race each sees those that were whole before it.
            refusal = await self._quota.refusal(tenant)
            if refusal is not None:
                await self._files.drop(tenant, file_id)
        except (BrokerAway, BrokerRefused):
            await self._forget(tenant, file_id)
            raise
        if refusal is not None:
            await self._forget(tenant, file_id)
            return refusal
        return as_json(file)

    async def _store(self, tenant: TenantKey, content: str, file: UploadFile) -> None:
        for number in count():
            data = await file.read(PART_BYTES)
            if not data:
                return
            await patiently(
                partial(self._contents.put, tenant, content, number, data),
                timeout_s=self._settings.publish_timeout_s,
            )

    async def _forget(self, tenant: TenantKey, content: str) -> None:
        try:
            await self._contents.drop(tenant, content)
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("parts of an upload that failed stay until they expire", error=str(error))


async def _bytes(first: Part, parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    yield first.data
    async for part in parts:
        yield part.data


def _ttl_s(fields: dict[str, str], default_s: float) -> float | Problem:
    seconds, anchor = fields.get("expires_after[seconds]"), fields.get("expires_after[anchor]")
    if seconds is None and anchor is None:
        return default_s
    if anchor != "created_at" or seconds is None or not _SECONDS.fullmatch(seconds):
        return _AGES
    return min(float(seconds), default_s)


def _is_live(record: FileRecord) -> bool:
    return time.time() < record.file.expires_at
