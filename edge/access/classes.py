"""Which classes a caller may ask for."""

from __future__ import annotations

from edge.admission import CLASS_HEADER
from edge.errors import Problem
from edge.gate import Entering, Pass
from schemas import subjects


class Classes:
    """A limit of the gate: `Caller.classes`."""

    async def enter(self, entering: Entering) -> Pass | Problem:
        """By where the request would be published, whatever it got its class from."""
        parsed = subjects.parse_request(entering.admitted.subject)
        assert parsed is not None, "what is admitted has a subject"
        allowed = entering.caller.classes
        if parsed.klass in allowed:
            return Pass()
        return Problem(
            "not_allowed",
            f"this key may not ask for the class {parsed.klass}, only for {', '.join(allowed)}",
            CLASS_HEADER,
        )
