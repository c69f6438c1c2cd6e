"""A request's output as one JSON document."""

from __future__ import annotations

from starlette.types import Send

from edge.answers import Answer, AnswerLimits, Submit, Ticket
from edge.dialect import Shape
from edge.dialects import told_choices
from edge.errors import Problem, problem_of
from edge.paths import request_path
from edge.reader import LogSources
from edge.relay import Broken, Ended, Tokens
from schemas.choices import Choice, add_deltas


class WholeAnswer(Answer):
    """Nothing is sent before END, so every failure is a status code."""

    def __init__(
        self,
        ticket: Ticket,
        submit: Submit | None,
        sources: LogSources,
        shape: Shape,
        limits: AnswerLimits,
    ) -> None:
        super().__init__(ticket, submit, sources, shape, limits, whole=True)
        self._choices: list[Choice] = []

    def fail(self, problem: Problem) -> None:
        if self._end is None and self._problem is None:
            self._problem = problem
            self._wake()

    async def _write(self, send: Send) -> None:
        while self._end is None and self._problem is None and not self._gone:
            await self._sleep()
        if self._problem is not None:
            await self._send_problem(send, self._problem)
        elif self._end is not None:
            choices = told_choices(self._end) or self._choices
            body = self._shape.whole(choices, self._end, self._offset, self._elapsed)
            await self._start(send, 200, [(b"content-type", b"application/json")], body)
            await send({"type": "http.response.body", "body": body})

    def _on_output(self, output: Tokens | Ended | Broken) -> None:
        if isinstance(output, Tokens):
            if self._first_token_at is None:
                self._first_token_at = self._loop.time()
                self._mark("first token")
            self._offset = output.offset
            add_deltas(self._choices, output.deltas)
        elif isinstance(output, Broken):
            self.fail(Problem("log_lost", output.message))
        elif (problem := problem_of(output.end)) is not None:
            self._mark("end")
            self.fail(problem)
            self._end = output.end
        else:
            self._mark("end")
            self._end = output.end
            self._offset = output.offset
            self._wake()

    def _resume_path(self) -> str:
        return request_path(self.ticket.rid)
