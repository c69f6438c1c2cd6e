"""`GET /v1/result/{id}`: what became of a request, for who comes later."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from edge.call import Call
from edge.compat.predict import is_own_id
from edge.errors import LOST, Problem
from edge.pages import Page
from edge.problem_response import ProblemResponse
from edge.service import Edge
from schemas.errors import ERRORS
from schemas.ids import TenantKey

PENDING_STATUS = 202

_REASON_OF_CODE = {row.code: reason for reason, row in ERRORS.items()}


class Pending(msgspec.Struct):
    """Nobody has finished it yet."""

    request_id: str
    status: str = "pending"


class Results:
    """Finds requests by their own id, and by the one that their client gave them."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def show(self, call: Call) -> Response:
        """The body its POST would have had, with that status where it failed; 202 while it is not over."""
        name = call.path["id"]
        page = await self._find(call.caller.tenant, name)
        if isinstance(page, Problem):
            return ProblemResponse(page, errors=call.errors)
        if page.error is not None:
            reason = _REASON_OF_CODE[page.error["code"]]
            problem = Problem(reason, page.error["message"] or "the request failed")
            return ProblemResponse(problem, page.id, call.errors)
        if page.response is None:
            return Response(msgspec.json.encode(Pending(name)), PENDING_STATUS, media_type="application/json")
        return Response(bytes(page.response), media_type="application/json")

    async def _find(self, tenant: TenantKey, name: str) -> Page | Problem:
        """A rid, or else what a client calls a request."""
        page = await self._edge.requests.page(tenant, name)
        if not isinstance(page, Problem) or page.reason != "not_found" or not is_own_id(name):
            return page
        try:
            rid = await self._edge.lineages.newest(tenant, name)
        except ValueError:
            return LOST
        return page if rid is None else await self._edge.requests.page(tenant, rid)
