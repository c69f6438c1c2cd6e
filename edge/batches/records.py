"""Files and batches as clients see them and as buckets keep them, and the ways a batch may go. Pure.

A batch: validating -> in_progress -> finalizing -> completed; validating -> failed; in_progress -> expired; from
validating or in_progress -> cancelling -> cancelled.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec
from msgspec.structs import replace

from schemas.ids import TenantKey

Url = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
URLS: tuple[Url, ...] = get_args(Url)
"""The endpoints that lines of a batch may name."""

Outcome = Literal["ok", "failed"]
Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
Stopped = Literal["done", "cancelling", "expired", "superseded"]
"""Why a run asks for no more lines: there are none, its client or the time said so, or another run goes on."""

OVER: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")

COMPLETION_WINDOW_S = 86_400
"""The one window there is: 24 hours."""


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file as OpenAI's API shows it; times in Unix seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class FileRecord(msgspec.Struct, frozen=True):
    """What is kept of a file besides its parts in FILES.

    `content` is the token that stands for them in subjects. The two files of a batch's results have one content:
    `outcome` says whose lines are this one's, and `twin` is the id of the other. `made_at`: `created_at`, exactly.
    `content_bytes`: of the whole content, where the file is not all of it.
    """

    file: FileObject
    content: str
    made_at: float
    outcome: Outcome | None = None
    twin: str | None = None
    content_bytes: int = 0


class LineFault(msgspec.Struct, frozen=True):
    """What is wrong with a batch's input; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class LineFaults(msgspec.Struct, frozen=True):
    """OpenAI's list of them."""

    data: list[LineFault]
    object: Literal["list"] = "list"


class Counts(msgspec.Struct, frozen=True):
    """Lines of a batch: all, answered well, answered otherwise."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as OpenAI's API shows it; times in Unix seconds."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Url
    errors: LineFaults | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    metadata: dict[str, str] | None = None


class BatchRecord(msgspec.Struct, frozen=True):
    """What is kept of a batch. `results_ttl_s`: how long its files are, from its begin on. `runner`: who runs it, or
    ran it last; empty before the first. `results_bytes`: what its results take so far. `key`: the id
    of the key that made it, if one was needed."""

    batch: BatchObject
    tenant: TenantKey
    made_at: float
    results_ttl_s: int
    runner: str = ""
    results_bytes: int = 0
    key: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.batch.status in OVER


def taken(record: BatchRecord, runner: str) -> BatchRecord:
    """`runner` runs it from now on; whoever did before stops when it sees that."""
    return record if record.over else replace(record, runner=runner)


def begun(record: BatchRecord, total: int, now: int) -> BatchRecord:
    """Its input is good. What is to be cancelled already does not begin."""
    if record.batch.status != "validating":
        return record
    counts = Counts(total=total)
    return _with(record, status="in_progress", in_progress_at=now, request_counts=counts)


def counted(record: BatchRecord, counts: Counts, results_bytes: int, runner: str) -> BatchRecord:
    """Some of its lines are done, says `runner`; only the newest one counts."""
    if record.over or record.runner != runner:
        return record
    return replace(_with(record, request_counts=counts), results_bytes=results_bytes)


def reason_to_stop(record: BatchRecord, runner: str, now: int) -> Stopped | None:
    """Why `runner` is to ask for no more lines."""
    if record.runner != runner:
        return "superseded"
    if record.batch.status == "cancelling":
        return "cancelling"
    return "expired" if now >= record.batch.expires_at else None


def cancelled_by_client(record: BatchRecord, now: int) -> BatchRecord:
    """Its client wants no more of it. Without a runner there is nothing to stop."""
    if record.batch.status not in ("validating", "in_progress"):
        return record
    cancelling = _with(record, status="cancelling", cancelling_at=now)
    return cancelling if record.runner else ended(cancelling, None, None, now)


def disowned(record: BatchRecord, now: int) -> BatchRecord:
    """Whoever made it may not ask any more."""
    if record.batch.status not in ("validating", "in_progress"):
        return record
    why = LineFault(
        "key_not_valid",
        "the API key that made this batch was revoked, has expired, or may not ask for batches any more",
    )
    return _with(record, status="cancelling", cancelling_at=now, errors=LineFaults([why]))


def finalizing(record: BatchRecord, now: int) -> BatchRecord:
    """Each of its lines has its result. What was cancelled meanwhile stays so."""
    if record.batch.status != "in_progress":
        return record
    return _with(record, status="finalizing", finalizing_at=now)


def failed(record: BatchRecord, faults: list[LineFault], now: int) -> BatchRecord:
    """Its input cannot be run, or has gone."""
    if record.over:
        return record
    return _with(record, status="failed", failed_at=now, errors=LineFaults(faults))


def ended(record: BatchRecord, output_id: str | None, error_id: str | None, now: int) -> BatchRecord:
    """Its files are there; how it ended follows from how it stood."""
    files = {"output_file_id": output_id, "error_file_id": error_id}
    match record.batch.status:
        case "finalizing":
            return _with(record, status="completed", completed_at=now, **files)
        case "cancelling":
            return _with(record, status="cancelled", cancelled_at=now, **files)
        case "in_progress":
            return _with(record, status="expired", expired_at=now, **files)
    return record


def _with(record: BatchRecord, **changes: Any) -> BatchRecord:
    return replace(record, batch=replace(record.batch, **changes))
