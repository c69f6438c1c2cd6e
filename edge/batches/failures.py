"""What a client is told when files or batches cannot be reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.responses import Response

from edge.call import Call
from edge.desk import refuse
from edge.errors import Problem
from schemas.errors import StreamFull

FILES_FULL = Problem("files_full", "there is no room for more files: delete some, or try again later")

Handle = Callable[[Call], Awaitable[Response | Problem]]


def told(handle: Handle) -> Callable[[Call], Awaitable[Response]]:
    """`handle` as an endpoint has it: problems, and a stream that is full, are answers."""

    async def answer(call: Call) -> Response:
        try:
            said = await handle(call)
        except StreamFull:
            said = FILES_FULL
        return refuse(said, errors=call.errors) if isinstance(said, Problem) else said

    return answer


def as_json(body: object) -> Response:
    """A body that is not a problem."""
    return Response(msgspec.json.encode(body), media_type="application/json")
