"""`/v1/responses`: make one, and find, follow, cancel and delete one that is kept, at any edge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from edge.admission import Arrival
from edge.answers import Submit
from edge.call import Call
from edge.desk import refuse
from edge.dialects import RESPONSE
from edge.endpoint import Endpoint
from edge.errors import LOST, Problem, problem_of
from edge.lookup import Found
from edge.manner import Manner
from edge.openapi.headers import FOLLOWING, LISTING
from edge.position import position_asked
from edge.problem_response import ProblemResponse
from edge.responses.answers import Receipt, WholeResponse
from edge.responses.body import ResponseBody, decode_response
from edge.responses.described import ResponseEvent, ResponseObject
from edge.responses.items import messages_of, shown_items
from edge.responses.listing import ItemPage, listed
from edge.responses.reading import object_of
from edge.responses.record import Record
from edge.responses.shape import RESPONSE_PREFIX, ResponseShape
from edge.responses.store import ResponseStore
from edge.responses.translate import Translated, translate
from edge.service import Edge
from edge.wishes import KEY_HEADER, ON_DISCONNECT_HEADER
from schemas.ids import RequestId, TenantKey, is_request_id
from schemas.requests import View

_EXAMPLE = {"input": "Tell me about rivers.", "max_output_tokens": 32}


@dataclass(frozen=True)
class Kept:
    """A response that can be asked for: its record, at `seq`, and what the streams say of its request."""

    rid: RequestId
    record: Record
    seq: int
    found: Found


class ResponsesApi:
    """The tenant is a part of every look-up: a response of another one is one that does not exist."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._requests = edge.requests
        self._store = ResponseStore(edge.js, edge.room, edge.responses_quota)

    async def create(self, call: Call) -> Response:
        """A new response, whole or as events; in the background, as soon as it is stored."""
        decoded = decode_response(call.body)
        if isinstance(decoded, Problem):
            return refuse(decoded, errors=call.errors)
        body, rest = decoded
        history = await self._history(call.caller.tenant, body.previous_response_id)
        if isinstance(history, Problem):
            return refuse(history, errors=call.errors)
        translated = translate(body, rest, history)
        if isinstance(translated, Problem):
            return refuse(translated, errors=call.errors)
        if len(translated.asked.raw) > self._edge.body_bytes_max:
            said = f"the conversation so far has more than the {self._edge.body_bytes_max} bytes that are accepted"
            return refuse(Problem("too_large", said), errors=call.errors)
        is_background = bool(body.background)
        if is_background:
            call = replace(call, headers={**call.headers, ON_DISCONNECT_HEADER: "detach"})
        manner = Manner(
            shape=partial(_shape_as_viewed, translated.echo),
            whole=Receipt if is_background else WholeResponse,
            at_once=is_background,
            around=partial(self._keep, translated, history) if body.is_kept else None,
        )
        return await self._edge.generate(RESPONSE, call, translated.asked, manner)

    async def retrieve(self, call: Call) -> Response:
        """The response as it stands, or its events after what the client has seen."""
        kept = await self._find(call)
        if isinstance(kept, Problem):
            return ProblemResponse(kept, errors=call.errors)
        if call.query.get("stream") not in ("true", "1"):
            return await self._page(call, kept)
        seen = position_asked(call.headers, call.query)
        if isinstance(seen, Problem):
            return ProblemResponse(seen, errors=call.errors)
        clock = await self._clock(call.caller.tenant, kept)
        permit = await self._edge.open_answer(call.caller)
        if isinstance(permit, Problem):
            return refuse(permit, errors=call.errors)
        manner = Manner(shape=lambda _view, _rid: _shape_of(kept, clock), at_once=True)
        return self._requests.open(
            call.caller.tenant, kept.rid, kept.found, call.headers, seen, manner, permit, call.trace
        )

    async def cancel(self, call: Call) -> Response:
        """Ends it, unless it has ended; then how it stands."""
        kept = await self._find(call)
        if isinstance(kept, Problem):
            return ProblemResponse(kept, errors=call.errors)
        found = await self._requests.end(call.caller.tenant, kept.rid, kept.found)
        if isinstance(found, Problem):
            return ProblemResponse(found, errors=call.errors)
        return await self._page(call, replace(kept, found=found))

    async def delete(self, call: Call) -> Response:
        """Forgets it. One that runs is cancelled: nobody could ever read it."""
        kept = await self._find(call)
        if isinstance(kept, Problem):
            return ProblemResponse(kept, errors=call.errors)
        found = await self._requests.end(call.caller.tenant, kept.rid, kept.found)
        if isinstance(found, Problem):
            return ProblemResponse(found, errors=call.errors)
        await self._store.drop(call.caller.tenant, kept.record, kept.seq)
        return _json(Deleted(f"{RESPONSE_PREFIX}{kept.rid}"))

    async def input_items(self, call: Call) -> Response:
        """What was given as its input, without what it went on from."""
        kept = await self._find(call)
        if isinstance(kept, Problem):
            return ProblemResponse(kept, errors=call.errors)
        page = listed(shown_items(kept.record.items, kept.rid), call.query)
        return ProblemResponse(page, errors=call.errors) if isinstance(page, Problem) else _json(page)

    async def _keep(
        self,
        translated: Translated,
        history: list[dict[str, Any]],
        arrival: Arrival,
        view: View,
        submit: Submit,
    ) -> Problem | View | None:
        """The record is stored before the request: whatever dies in between, what was accepted can be found."""
        echo, items = translated.echo, translated.items
        record = Record(arrival.fingerprint, view.model, view.created, echo, items, history)
        seq = await self._store.keep(arrival.tenant, arrival.rid, record)
        if isinstance(seq, Problem):
            return seq
        said = await submit()
        is_refused = isinstance(said, Problem) and said.reason != "outcome_unknown"
        # Another request with the same key may be stored on this record just now.
        if is_refused and seq is not None and KEY_HEADER not in arrival.headers:
            await self._store.drop_unused(arrival.tenant, record, seq, arrival.rid)
        return said

    async def _find(self, call: Call) -> Kept | Problem:
        return await self._kept(call.caller.tenant, call.path["id"])

    async def _kept(self, tenant: TenantKey, id_: str) -> Kept | Problem:
        missing = Problem(
            "not_found", f"there is no response with the id {id_[:80]!r}; it may have expired", "id"
        )
        rid = id_.removeprefix(RESPONSE_PREFIX)
        if rid == id_ or not is_request_id(rid):
            return missing
        try:
            stored = await self._store.find(tenant, RequestId(rid))
        except ValueError:
            return LOST
        if stored is None:
            return missing
        found = await self._requests.find(tenant, rid)
        if isinstance(found, Problem):
            return missing if found.reason == missing.reason else found
        return Kept(RequestId(rid), *stored, found)

    async def _history(self, tenant: TenantKey, previous: str | None) -> list[dict[str, Any]] | Problem:
        """The chat before a response that goes on from another one; that one's instructions are not carried over."""
        if previous is None:
            return []
        kept = await self._kept(tenant, previous)
        if isinstance(kept, Problem):
            if kept.reason != "not_found":
                return kept
            said = f"there is no response with the id {previous[:80]!r} to go on from"
            return Problem("previous_response_not_found", said, "previous_response_id")
        end = kept.found.end
        if end is None or problem_of(end) is not None:
            why = "has not ended yet" if end is None else "did not end well"
            said = f"the response {previous} {why}: there is nothing to go on from"
            return Problem("bad_request", said, "previous_response_id")
        entries = await self._requests.entries(tenant, kept.rid, kept.found)
        if isinstance(entries, Problem):
            return entries
        shown = object_of(_shape_of(kept, None), entries)
        if isinstance(shown, Problem):
            return shown
        turn = messages_of([*kept.record.items, *shown["output"]])
        return turn if isinstance(turn, Problem) else [*kept.record.history, *turn]

    async def _page(self, call: Call, kept: Kept) -> Response:
        tenant = call.caller.tenant
        entries = await self._requests.entries(tenant, kept.rid, kept.found)
        if isinstance(entries, Problem):
            return ProblemResponse(entries, errors=call.errors)
        clock = await self._clock(tenant, kept)
        shown = object_of(_shape_of(kept, clock), entries)
        return ProblemResponse(shown, kept.rid, call.errors) if isinstance(shown, Problem) else _json(shown)

    async def _clock(self, tenant: TenantKey, kept: Kept) -> Callable[[], int]:
        """When it was complete: the broker's word, or now for whoever sees it end."""
        ended_at = await self._requests.ended_at(tenant, kept.rid, kept.found)
        return _now if ended_at is None else lambda: ended_at


class Deleted(msgspec.Struct, frozen=True):
    """What DELETE answers with."""

    id: str
    object: str = "response"
    deleted: bool = True


def _shape_as_viewed(echo: dict[str, Any], view: View, rid: str) -> ResponseShape:
    return ResponseShape(rid, view.model, view.created, echo, _now)


def _shape_of(kept: Kept, clock: Callable[[], int] | None) -> ResponseShape:
    record = kept.record
    return ResponseShape(kept.rid, record.model, record.created, record.echo, clock)


def _now() -> int:
    return int(time.time())


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def endpoints(edge: Edge, problems: tuple[str, ...]) -> list[Endpoint]:
    """The endpoints; `problems` are those of any generation."""
    api = ResponsesApi(edge)
    one = "/v1/responses/{id}"
    found = ("not_found", "log_lost", "broker_away")
    closed = (*found, "output_full")
    create_problems = (*problems, "previous_response_not_found", "broker_away")
    return [
        Endpoint(
            "POST",
            "/v1/responses",
            api.create,
            "A response, which can be kept and gone on from",
            ResponseBody,
            ResponseObject,
            streams=True,
            problems=create_problems,
            events=(ResponseEvent,),
            examples={"whole": _EXAMPLE, "streamed": {**_EXAMPLE, "stream": True}},
        ),
        Endpoint(
            "GET",
            one,
            api.retrieve,
            "A response as it stands, or its events",
            gives=ResponseObject,
            streams=True,
            problems=("bad_request", *found, "quota_exceeded", "edge_full", "draining"),
            parameters=FOLLOWING,
            events=(ResponseEvent,),
        ),
        Endpoint(
            "DELETE",
            one,
            api.delete,
            "Forgets a response, and cancels one that runs",
            gives=Deleted,
            problems=closed,
        ),
        Endpoint(
            "POST",
            f"{one}/cancel",
            api.cancel,
            "Cancels a response",
            gives=ResponseObject,
            problems=closed,
        ),
        Endpoint(
            "GET",
            f"{one}/input_items",
            api.input_items,
            "What a response was given",
            gives=ItemPage,
            problems=("bad_request", *found),
            parameters=LISTING,
        ),
    ]
