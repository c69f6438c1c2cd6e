"""A request's output as one JSON document."""

from __future__ import annotations

from starlette.types import Send

from edge.answers import Answer, AnswerLimits, Submit, Ticket
from edge.dialects import Shape
from edge.errors import Problem, problem_of
from edge.paths import request_path
from edge.reader import LogSources
from edge.relay import Broken, Ended, Tokens
from schemas.output import End


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
        self._pieces: dict[int, list[str]] = {}
        self._ended: Ended | None = None

    def fail(self, problem: Problem) -> None:
        if self._ended is None and self._problem is None:
            self._problem = problem
            self._wake()

    async def _write(self, send: Send) -> None:
        while self._ended is None and self._problem is None and not self._gone:
            await self._sleep()
        if self._problem is not None:
            await self._send_problem(send, self._problem)
        elif self._ended is not None:
            end = self._ended.end
            body = self._shape.whole(self._texts(end), end, self._ended.offset)
            await self._start(send, 200, [(b"content-type", b"application/json")], body)
            await send({"type": "http.response.body", "body": body})

    def _on_output(self, output: Tokens | Ended | Broken) -> None:
        if isinstance(output, Tokens):
            self._offset = output.offset
            for delta in output.deltas:
                self._pieces.setdefault(delta.choice, []).append(delta.text)
        elif isinstance(output, Broken):
            self.fail(Problem("log_lost", output.message))
        elif (problem := problem_of(output.end)) is not None:
            self.fail(problem)
        else:
            self._ended = output
            self._offset = output.offset
            self._wake()

    def _resume_path(self) -> str:
        return request_path(self.ticket.rid)

    def _texts(self, end: End) -> list[str]:
        if end.text is not None:
            return end.text
        choices = max(1, len(end.finish_reasons))
        return ["".join(self._pieces.get(choice, [])) for choice in range(choices)]
