"""Pages of a list. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from edge.errors import Problem


class HasId(Protocol):
    """What can stand in a list."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


class ListPage(msgspec.Struct, Generic[T], frozen=True):
    """One page as OpenAI's API shows it."""

    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


def list_page(
    dated: Iterable[tuple[float, T]], query: Mapping[str, str], *, limit_default: int, limit_max: int
) -> ListPage[T] | Problem:
    """The page that `query` asks for by `after`, `limit` and `order`, of objects with the times they were made at."""
    limit = query.get("limit", str(limit_default))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= limit_max):
        return Problem("bad_request", f"limit must be between 1 and {limit_max}", "limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        return Problem("bad_request", "order must be asc or desc", "order")
    ordered = sorted(dated, key=lambda one: (one[0], one[1].id), reverse=order == "desc")
    listed = [one for _, one in ordered]
    after = query.get("after")
    if after is not None:
        at = next((index for index, one in enumerate(listed) if one.id == after), None)
        if at is None:
            return Problem("bad_request", "after is not in the list", "after")
        listed = listed[at + 1 :]
    shown = listed[: int(limit)]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return ListPage(shown, first, last, has_more=len(listed) > len(shown))
