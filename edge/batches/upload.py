"""Reads an upload: a form with a file in it, which may be much larger than memory should hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
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

PACE_BYTES_PER_S = 32 << 10
"""A slower client than this takes a place that others wait for: a minute of a poor mobile network's is 2 MB."""


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
    """The form, refused as soon as its file is known to have more than `bytes_max`, or when its client was waited for
    `idle_s` longer than what came allows it."""
    too_large = Problem("too_large", f"a file may have at most {bytes_max} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > bytes_max + FORM_BYTES:
        return too_large
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        return Problem("bad_request", "the body must be multipart/form-data")
    # The parser would look for any codec of Python's that a client names, remember those that there are not, and fall
    # over those that are for something else; what some make of a name can be in no JSON.
    if parse_options_header(content_type)[1].get(b"charset", b"utf-8").lower() != b"utf-8":
        return Problem("bad_request", "a form's charset must be utf-8")
    body = _bounded(request, bytes_max + FORM_BYTES, too_large, idle_s)
    parser = MultiPartParser(
        request.headers, body, max_files=1, max_fields=FIELDS_MAX, max_part_size=FIELD_BYTES_MAX
    )
    found: Upload | Problem | None = None
    try:
        found = await _parsed(parser, bytes_max, too_large)
    finally:
        # The parser closes what it has begun only where it has itself found a mistake: not if the form breaks off, nor
        # if its client does.
        kept: object = found.file.file if isinstance(found, Upload) else None
        for file in parser._files_to_close_on_error:
            if file is not kept:
                file.close()
    return found


async def _parsed(parser: MultiPartParser, bytes_max: int, too_large: Problem) -> Upload | Problem:
    try:
        form = await parser.parse()
    except _RefusedError as refused:
        return refused.problem
    except MultiPartException as error:
        return Problem("bad_request", f"the form cannot be read: {error.message}")
    file = form.get("file")
    if not isinstance(file, UploadFile):
        return Problem("bad_request", "file is required", "file")
    size = file.size or 0
    if not 0 < size <= bytes_max:
        return too_large if size else Problem("bad_request", "the file is empty", "file")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return Upload(file, (file.filename or "file")[:FILENAME_CHARS_MAX], size, fields)


async def _bounded(
    request: Request, bytes_max: int, too_large: Problem, idle_s: float
) -> AsyncGenerator[bytes, None]:
    chunks = request.stream()
    now = asyncio.get_running_loop().time
    size, patience_s = 0, idle_s
    while True:
        waits_since = now()
        try:
            async with asyncio.timeout(patience_s):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise _RefusedError(
                Problem("body_timeout", f"too little of the body came: {size} bytes so far")
            ) from None
        if chunk is None:
            return
        size += len(chunk)
        if size > bytes_max:
            raise _RefusedError(too_large)
        patience_s += waits_since - now() + len(chunk) / PACE_BYTES_PER_S
        patience_s = max(0.0, min(patience_s, idle_s))
        yield chunk
