"""The endpoints of Anthropic's API."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from starlette.responses import Response

from edge.admission import CLASS_HEADER
from edge.anthropic.bodies import CountBody, MessageBody
from edge.anthropic.count import TokenCount
from edge.anthropic.dialects import MESSAGE, TOKEN_COUNT
from edge.anthropic.errors import ANTHROPIC_ERRORS
from edge.anthropic.events import (
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
)
from edge.call import Call
from edge.endpoint import Endpoint
from edge.service import Edge

PATH = "/v1/messages"

_EVENTS = (
    *(MessageStart, ContentBlockStart, ContentBlockDelta, ContentBlockStop),
    *(MessageDelta, MessageStop, Ping),
)

_EXAMPLE = {"model": "penstock-sim", "messages": [{"role": "user", "content": "Tell me about rivers."}]}


def endpoints(edge: Edge, problems: tuple[str, ...]) -> list[Endpoint]:
    """Messages, and how long their prompts are. `problems`: of any generation."""

    problems = (*problems, "thread_unsupported")

    async def count(call: Call) -> Response:
        return await edge.generate(TOKEN_COUNT, _hurried(call))

    return [
        Endpoint(
            "POST",
            PATH,
            partial(edge.generate, MESSAGE),
            "A conversation's next message, in Anthropic's API",
            MessageBody,
            Message,
            streams=True,
            events=_EVENTS,
            last_data="",
            problems=problems,
            errors=ANTHROPIC_ERRORS,
            examples={
                "whole": {**_EXAMPLE, "max_tokens": 32},
                "streamed": {**_EXAMPLE, "max_tokens": 32, "stream": True},
            },
        ),
        Endpoint(
            "POST",
            f"{PATH}/count_tokens",
            count,
            "The tokens of a message's prompt, as the engine counts them",
            CountBody,
            TokenCount,
            problems=problems,
            errors=ANTHROPIC_ERRORS,
            examples={"whole": _EXAMPLE},
        ),
    ]


def _hurried(call: Call) -> Call:
    """A count comes before the work that it is for: it is interactive, unless its caller says otherwise or may not be
    that."""
    if CLASS_HEADER in call.headers or "interactive" not in call.caller.classes:
        return call
    return replace(call, headers={**call.headers, CLASS_HEADER: "interactive"})
