"""Pages of a list of items, as OpenAI's API turns them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from edge.errors import Problem

LIMIT, LIMIT_MAX = 20, 100


class ItemPage(msgspec.Struct, frozen=True):
    """A part of a list; the ids are those of the first and the last item in it."""

    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


def listed(items: Sequence[dict[str, Any]], query: Mapping[str, str]) -> ItemPage | Problem:
    """The page that `order` (the newest first, unless it is `asc`), `after` (an id) and `limit` ask for."""
    limit = query.get("limit", str(LIMIT))
    if not limit.isdecimal() or len(limit) > len(str(LIMIT_MAX)) or not 1 <= int(limit) <= LIMIT_MAX:
        return Problem("bad_request", f"limit must be between 1 and {LIMIT_MAX}", "limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        return Problem("bad_request", "order must be asc or desc", "order")
    rest = list(items) if order == "asc" else list(reversed(items))
    after = query.get("after")
    if after is not None:
        places = [place for place, item in enumerate(rest) if item["id"] == after]
        if not places:
            return Problem("bad_request", "after must be the id of an item in this list", "after")
        rest = rest[places[0] + 1 :]
    page = rest[: int(limit)]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return ItemPage(page, first, last, len(rest) > len(page))
