"""Reads an upload: a form with a file in it, which may be much larger than memory should hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from edge.errors import Problem

FIELDS_MAX = 16
FIELD_BYTES_MAX = 4096
"""Names and numbers; the file is another matter."""

FORM_BYTES = 64 << 10
"""What a form has besides its file, at most."""

FILENAME_CHARS_MAX = 255


class Upload(NamedTuple):
    """`file` is on disk, or in memory while it is small; whoever gets it closes it."""

    file: UploadFile
    filename: str
    size: int
    fields: dict[str, str]


class _RefusedError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


async def read_upload(request: Request, *, bytes_max: int, idle_s: float) -> Upload | Problem:
    """The form, refused as soon as its file is known to have more than `bytes_max`, or when nothing comes for
    `idle_s`."""
    too_large = Problem("too_large", f"a file may have at most {bytes_max} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > bytes_max + FORM_BYTES:
        return too_large
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return Problem("bad_request", "the body must be multipart/form-data")
    body = _bounded(request, bytes_max + FORM_BYTES, too_large, idle_s)
    parser = MultiPartParser(
        request.headers, body, max_files=1, max_fields=FIELDS_MAX, max_part_size=FIELD_BYTES_MAX
    )
    try:
        form = await parser.parse()
    except _RefusedError as refused:
        return refused.problem
    except MultiPartException as error:
        return Problem("bad_request", f"the form cannot be read: {error.message}")
    file = form.get("file")
    if not isinstance(file, UploadFile):
        await form.close()
        return Problem("bad_request", "file is required", "file")
    size = file.size or 0
    if not 0 < size <= bytes_max:
        await file.close()
        return too_large if size else Problem("bad_request", "the file is empty", "file")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return Upload(file, (file.filename or "file")[:FILENAME_CHARS_MAX], size, fields)


async def _bounded(
    request: Request, bytes_max: int, too_large: Problem, idle_s: float
) -> AsyncGenerator[bytes, None]:
    chunks = request.stream()
    size = 0
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise _RefusedError(
                Problem("body_timeout", f"nothing of the body came for {idle_s:g} s")
            ) from None
        if chunk is None:
            return
        size += len(chunk)
        if size > bytes_max:
            raise _RefusedError(too_large)
        yield chunk
