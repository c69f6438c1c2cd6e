"""Files and batches of one edge, wired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from edge.batches.asking import Generate
from edge.batches.batches_api import BatchesApi, CreateBatch
from edge.batches.contents import Contents
from edge.batches.failures import Handle, told
from edge.batches.files_api import FileDeleted, FilesApi, UploadForm
from edge.batches.listing import ListPage
from edge.batches.quota import FilesQuota
from edge.batches.records import BatchObject, BatchRecord, FileObject, FileRecord
from edge.batches.runner import Absent, Means
from edge.batches.runners import Runners
from edge.batches.shelf import Shelf
from edge.endpoint import Endpoint, Parameter
from edge.openapi.headers import LISTING
from edge.tracing import Tracing
from infra.jetstream import JetStream
from infra.settings import Settings
from schemas.dispatch import WORK_OVERHEAD_BYTES
from schemas.ids import TenantKey
from schemas.streams import BATCHES_BUCKET, FILES_BUCKET

_STORE = ("broker_away",)


class Batches:
    """`generate` and `cancel` are the edge's, `absent` is its `Access`'s; `name` is its id, `fail` ends the process."""

    def __init__(
        self,
        settings: Settings,
        js: JetStream,
        *,
        generate: Generate,
        cancel: Callable[[TenantKey, str], Awaitable[object]],
        absent: Absent,
        tracing: Tracing,
        name: str,
        fail: Callable[[Exception], None],
    ) -> None:
        contents = Contents(js)
        files = Shelf(js, FILES_BUCKET, FileRecord)
        batches = Shelf(js, BATCHES_BUCKET, BatchRecord)
        room = js.bus.max_payload - WORK_OVERHEAD_BYTES
        quota = FilesQuota(settings, files, batches)
        self._files = FilesApi(settings, contents, files, quota)
        self._batches = BatchesApi(settings, js, contents, self._files, batches, quota)
        means = Means(
            generate=generate,
            cancel=cancel,
            absent=absent,
            tracing=tracing,
            contents=contents,
            files=files,
            batches=batches,
            inflight_max=settings.batch_inflight_max,
            line_bytes_max=min(int(settings.request_bytes_max), room),
            result_bytes_max=room,
        )
        self._runners = Runners(js, means, edge=name, fail=fail)

    def start(self) -> None:
        """Begins to run batches."""
        self._runners.start()

    async def close(self) -> None:
        """Gives those that run here back."""
        await self._runners.close()

    def endpoints(self) -> list[Endpoint]:
        """Rows of the table."""
        return [*self._of_files(), *self._of_batches()]

    def _of_files(self) -> list[Endpoint]:
        one, files = "/v1/files/{file_id}", self._files
        upload = ("body_timeout", "too_large", "edge_full", "files_full", "quota_exceeded", *_STORE)
        return [
            Endpoint(
                "POST",
                "/v1/files",
                told(files.upload),
                "Uploads a file, as a form",
                UploadForm,
                FileObject,
                takes_as="multipart/form-data",
                problems=upload,
                reads_body=True,
            ),
            Endpoint(
                "GET",
                "/v1/files",
                told(files.list_files),
                "Files",
                gives=ListPage[FileObject],
                problems=_STORE,
                parameters=(*LISTING, Parameter("purpose", "query", str, "Only files for this.")),
            ),
            _get(one, files.show, "One file", FileObject, "not_found"),
            Endpoint(
                "GET",
                f"{one}/content",
                told(files.content),
                "A file's bytes",
                gives=bytes,
                gives_as="application/octet-stream",
                problems=("not_found", *_STORE),
            ),
            Endpoint(
                "DELETE",
                one,
                told(files.delete),
                "Deletes a file",
                gives=FileDeleted,
                problems=("not_found", *_STORE),
            ),
        ]

    def _of_batches(self) -> list[Endpoint]:
        one, batches = "/v1/batches/{batch_id}", self._batches
        return [
            Endpoint(
                "POST",
                "/v1/batches",
                told(batches.create),
                "Runs the requests of a file",
                CreateBatch,
                BatchObject,
                problems=("not_found", "not_allowed", "queue_full", "files_full", "quota_exceeded", *_STORE),
            ),
            Endpoint(
                "GET",
                "/v1/batches",
                told(batches.list_batches),
                "Batches",
                gives=ListPage[BatchObject],
                problems=_STORE,
                parameters=LISTING,
            ),
            _get(one, batches.show, "How a batch stands", BatchObject, "not_found"),
            Endpoint(
                "POST",
                f"{one}/cancel",
                told(batches.cancel),
                "Cancels a batch",
                gives=BatchObject,
                problems=("not_found", "bad_request", *_STORE),
            ),
        ]


def _get(path: str, handle: Handle, summary: str, gives: object, *problems: str) -> Endpoint:
    return Endpoint("GET", path, told(handle), summary, gives=gives, problems=(*problems, *_STORE))
