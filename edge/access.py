"""Who a request comes from."""

from __future__ import annotations

from collections.abc import Mapping

from edge.call import Caller
from edge.errors import Problem


class Access:
    """Without keys everybody is one caller."""

    def identify(self, headers: Mapping[str, str], address: str) -> Caller | Problem:
        """`headers` by lower-case name; `address` is the other end of the connection."""
        return Caller()
