"""An error as the whole response."""

from __future__ import annotations

from starlette.responses import Response

from edge.errors import OPENAI_ERRORS, ErrorStyle, Problem, error_headers


class ProblemResponse(Response):
    """`rid` names the request, if it has got a name already."""

    def __init__(self, problem: Problem, rid: str | None = None, errors: ErrorStyle = OPENAI_ERRORS) -> None:
        self.problem = problem
        super().__init__(errors.body(problem), errors.status(problem))
        ids = [] if rid is None else [(b"x-request-id", rid.encode()), (b"request-id", rid.encode())]
        self.raw_headers = [*self.raw_headers, *error_headers(problem), *ids]
