"""Somebody who cancels requests by their rid, at any edge, and what must hold of the answer: I11 and I13."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from chaos.http import Door, Exchange
from chaos.ledger import Ledger, Log, Violated
from chaos.network import Line
from chaos.processes import Machine
from schemas.ids import ANONYMOUS

_STATUSES = {"ok": "completed", "error": "failed", "cancelled": "cancelled", "expired": "expired"}
"""What a page says of an END."""


class _Page(msgspec.Struct, frozen=True):
    id: str
    status: str


class Canceller:
    """Sends one DELETE. After its answer the request has an END, and the ledger sees to it that nothing follows one."""

    def __init__(
        self,
        log: Log,
        edge: Machine,
        ledger: Ledger,
        violated: Violated,
        tell: Callable[[str, str], None],
        count: Counter[str],
    ) -> None:
        self.tenant, self.rid = log.name
        self._edge = edge
        self._ledger = ledger
        self._violated = violated
        self._tell = tell
        self._count = count
        self._had_ended = log.end is not None

    def ask(self, line: Line) -> None:
        """Sends the request."""
        self.exchange = Exchange(
            line,
            "chat",
            b"",
            {},
            verb="cancel",
            rid=self.rid,
            on_event=lambda event: self._violated("I13", f"a cancel of {self.rid} was answered with {event}"),
            on_end=self._on_end,
        )
        self._tell("canceller", f"cancels {self.rid} at {self._edge.name}")
        self.exchange.ask(Door.of(self._edge.process))

    def _on_end(self) -> None:
        exchange = self.exchange
        answer = bytes(exchange.answer)
        self._tell("canceller", f"{exchange.ending} {exchange.status} {self.rid} {answer!r}")
        if exchange.ending != "complete":
            return
        self._count[f"cancel answered {exchange.status}"] += 1
        log = self._ledger.logs[self.tenant, self.rid]
        if self.tenant != ANONYMOUS:
            if exchange.status == 200:
                self._violated("I11", f"somebody else's {self.rid} was shown: {answer!r}")
            return
        if log.was_lost:
            return
        if exchange.status == 404:
            self._violated("I13", f"a cancel was told that there is no {self.rid}, which is stored")
        if exchange.status == 200:
            self._check(msgspec.json.decode(answer, type=_Page), log)

    def _check(self, page: _Page, log: Log) -> None:
        if log.end is None:
            self._violated("I13", f"a cancel of {self.rid} was answered, and it has no END: {page}")
        elif page != _Page(self.rid, _STATUSES[log.end.status]):
            self._violated("I13", f"a cancel of {self.rid} was told {page}, its END is {log.end}")
        elif not self._had_ended:
            self._count[f"cancel while open: {page.status}"] += 1
