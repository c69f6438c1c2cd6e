"""How much of the store of files one tenant may fill."""

from __future__ import annotations

import msgspec

from edge.batches.records import BatchRecord, FileRecord
from edge.batches.shelf import Shelf
from edge.errors import Problem
from infra.settings import Settings
from schemas.ids import TenantKey
from schemas.quotas import QUOTA_EXCEEDED, store_full
from schemas.streams import BUCKET_BYTES_MAX

RECORD_OVERHEAD_BYTES = 160
"""Of a record's message beside its value: its subject, and what the broker stores with every message."""


class FilesQuota:
    """By what the buckets say: the bytes of every record of the tenant, also of one that has expired, whose parts are
    there until the stream forgets them. Results count as their batch runs, half a second late, and are never refused:
    they are paid for. What is being uploaded counts when it is whole."""

    def __init__(self, settings: Settings, files: Shelf[FileRecord], batches: Shelf[BatchRecord]) -> None:
        self._share = settings.store_share
        self._bytes_max = int(settings.files_bytes_max * self._share)
        self._records_bytes_max = int(BUCKET_BYTES_MAX * self._share)
        self._files = files
        self._batches = batches

    async def refusal(self, tenant: TenantKey, more: int = 0) -> Problem | None:
        """Why the tenant cannot keep `more` bytes beside what it has. Raises BrokerAway."""
        if self._share >= 1:
            return None
        files = await self._files.all_of(tenant)
        if sum(map(_record_bytes, files)) > self._records_bytes_max:
            return Problem(QUOTA_EXCEEDED, store_full("records of files", self._records_bytes_max))
        batches = await self._batches.all_of(tenant)
        # The results of a batch are one content of two files, and of one that runs, or failed, of none.
        contents = {file.content: max(file.file.bytes, file.content_bytes) for file in files}
        kept = sum(contents.values())
        kept += sum(one.results_bytes for one in batches if not one.over or one.batch.status == "failed")
        if kept + more > self._bytes_max:
            return Problem(QUOTA_EXCEEDED, store_full("files", self._bytes_max))
        return None


def _record_bytes(record: FileRecord) -> int:
    return len(msgspec.json.encode(record)) + RECORD_OVERHEAD_BYTES
