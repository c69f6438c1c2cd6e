"""Failures as Anthropic's clients meet them. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.errors import Problem

OVERLOADED = 529
"""Anthropic's status for every kind of too much; its clients wait and try again."""


class AnthropicErrors:
    """Anthropic's error body, and its status where that differs from the table's."""

    def status(self, problem: Problem) -> int:
        """The row's, but for one type."""
        row = problem.row
        return OVERLOADED if row.anthropic == "overloaded_error" else row.status

    def body(self, problem: Problem, rid: str | None = None) -> bytes:
        """`request_id` is null for what was turned away: nothing can be asked for by the id in its headers. The table's
        code stands where clients look for one."""
        error: dict[str, Any] = {"type": problem.row.anthropic, "message": problem.message}
        if problem.row.code is not None:
            error["details"] = {"error_code": problem.row.code}
        if problem.resume is not None:
            error["resume"] = problem.resume
        return msgspec.json.encode({"type": "error", "error": error, "request_id": rid})


ANTHROPIC_ERRORS = AnthropicErrors()


def error_event(problem: Problem, rid: str) -> bytes:
    """The end of a broken stream, without an id: a client that comes back is told again."""
    return b"event: error\ndata: %b\n\n" % ANTHROPIC_ERRORS.body(problem, rid)
