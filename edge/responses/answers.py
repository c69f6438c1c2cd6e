"""Answers of responses that do not stream."""

from __future__ import annotations

from starlette.types import Send

from edge.answers import Answer, AnswerLimits, Submit, Ticket
from edge.dialect import Shape
from edge.errors import Problem
from edge.reader import LogSources
from edge.relay import Broken, Ended, Tokens
from edge.responses.shape import ResponseShape
from edge.whole_answer import WholeAnswer


class WholeResponse(WholeAnswer):
    """Shows its shape every record: the order of a response's items is that of the log."""

    def _on_output(self, output: Tokens | Ended | Broken) -> None:
        if isinstance(output, Tokens):
            self._shape.tokens(output)
        super()._on_output(output)


class Receipt(Answer):
    """Says that a response is queued, as soon as it is: its output is for whoever asks later."""

    def __init__(
        self,
        ticket: Ticket,
        submit: Submit | None,
        sources: LogSources,
        shape: Shape,
        limits: AnswerLimits,
    ) -> None:
        super().__init__(ticket, submit, sources, shape, limits, whole=True)
        assert isinstance(shape, ResponseShape), "only a response has a receipt"
        self._receipt = shape

    def fail(self, problem: Problem) -> None:
        """Only what keeps it from being stored matters: the rest is told to whoever asks."""
        if self._problem is None:
            self._problem = problem

    async def _write(self, send: Send) -> None:
        if self._problem is not None:
            await self._send_problem(send, self._problem)
            return
        body = self._receipt.receipt()
        await self._start(send, 200, [(b"content-type", b"application/json")], body)
        await send({"type": "http.response.body", "body": body})

    def _on_output(self, output: Tokens | Ended | Broken) -> None:
        """Nothing: whoever asks later reads the log."""

    def _resume_path(self) -> str:
        return f"/v1/responses/{self._receipt.id}"
