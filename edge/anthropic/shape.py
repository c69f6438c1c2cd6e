"""A message's shapes: the events of a stream, and the whole. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.anthropic.bodies import JsonObject, Text, Thinking, ToolUse
from edge.anthropic.errors import error_event
from edge.anthropic.events import (
    Block,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    Event,
    InputJsonDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    SignatureDelta,
    Stop,
    ThinkingDelta,
    ThinkingTokens,
    frame,
)
from edge.dialect import Elapsed
from edge.errors import Problem
from edge.relay import Tokens
from schemas.choices import Choice
from schemas.output import Delta, End, ToolPiece

PING = frame(Ping())

_STOP_MESSAGE = frame(MessageStop())
_encode = msgspec.json.Encoder().encode
_arguments = msgspec.json.Decoder(JsonObject)


class MessageShape:
    """One reading of one message. Blocks follow each other as they come: thoughts, text, calls; text after a call is a
    block of its own. A call is the same block wherever its pieces stand, and a client that keeps blocks by their index
    puts them together, even behind the event that has closed it; no engine is known to mix calls.

    Only the first choice is shown: no message asks for more.
    """

    keep_alive = PING

    def __init__(self, rid: str, model: str, created: int, *, include_usage: bool) -> None:
        self._rid = rid
        self._model = model
        # Of the next event: the opening has the first one.
        self._offset, self._nth = 0, 1
        self._blocks = 0
        self._open: Literal["text", "thinking", "tool_use"] | None = None
        self._calls: dict[int, int] = {}

    def opening(self) -> bytes:
        """The message without its content, and a ping, as Anthropic's API sends it."""
        message = self._message([], Stop(None, None), MessageUsage(0, 0))
        return b"id: 0-0\n%b%b" % (frame(MessageStart(message)), PING)

    def tokens(self, tokens: Tokens) -> bytes:
        """The events of each delta. Those that end at one offset count on, over all its records."""
        if tokens.offset != self._offset:
            self._offset, self._nth = tokens.offset, 0
        return b"".join([event for delta in tokens.deltas for event in self._events(delta)])

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """Why the message ended, and what it cost. The last event has no id: whoever comes back is told again that all
        is there."""
        self._offset, self._nth = offset + 1, 0
        events = self._close()
        if not self._blocks:
            events = [self._begin("text", Text("")), *self._close()]
        stop = _stop_of(end, has_calls=bool(self._calls))
        events.append(self._event(MessageDelta(stop, _usage_of(end, offset))))
        return b"".join([*events, _STOP_MESSAGE])

    def failing(self, problem: Problem, rid: str) -> bytes:
        """The error."""
        return error_event(problem, rid)

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The message as one document. Arguments of a call that was cut off are no JSON object, and none are shown."""
        choice = choices[0] if choices else Choice()
        content: list[Block] = []
        if choice.thoughts:
            content.append(Thinking(choice.reasoning, self._signature))
        if choice.pieces:
            content.append(Text(choice.text))
        content += [
            ToolUse(self._call_id(index, call.id), call.name, _input(call.arguments))
            for index, call in enumerate(choice.tools)
        ]
        stop = _stop_of(end, has_calls=bool(choice.tools))
        return _encode(self._message(content or [Text("")], stop, _usage_of(end, offset)))

    def _events(self, delta: Delta) -> list[bytes]:
        if delta.choice:
            return []
        if self._open == "text" and not (delta.reasoning or delta.tools):
            return [self._text(delta.text)] if delta.text else []
        events: list[bytes] = []
        if delta.reasoning:
            events += self._enter("thinking", Thinking(""))
            events.append(self._event(ContentBlockDelta(self._blocks - 1, ThinkingDelta(delta.reasoning))))
        if delta.text:
            events += self._enter("text", Text(""))
            events.append(self._text(delta.text))
        for piece in delta.tools:
            events += self._call(piece)
        return events

    def _text(self, text: str) -> bytes:
        """The token path."""
        nth = self._nth
        self._nth += 1
        return (
            b'id: %d-%d\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"text_delta","text":%b}}\n\n'
            % (self._offset, nth, self._blocks - 1, _encode(text))
        )

    def _call(self, piece: ToolPiece) -> list[bytes]:
        events: list[bytes] = []
        if piece.index not in self._calls:
            events = self._close()
            self._calls[piece.index] = self._blocks
            call = ToolUse(self._call_id(piece.index, piece.id), piece.name, {})
            events.append(self._begin("tool_use", call))
        if piece.arguments:
            delta = InputJsonDelta(piece.arguments)
            events.append(self._event(ContentBlockDelta(self._calls[piece.index], delta)))
        return events

    def _enter(self, kind: Literal["text", "thinking"], block: Text | Thinking) -> list[bytes]:
        """Makes a block of this kind the open one."""
        return [] if self._open == kind else [*self._close(), self._begin(kind, block)]

    def _begin(self, kind: Literal["text", "thinking", "tool_use"], block: Block) -> bytes:
        index, self._open = self._blocks, kind
        self._blocks += 1
        return self._event(ContentBlockStart(index, block))

    def _close(self) -> list[bytes]:
        kind, self._open = self._open, None
        if kind is None:
            return []
        index = self._blocks - 1
        events: list[bytes] = []
        if kind == "thinking":
            events.append(self._event(ContentBlockDelta(index, SignatureDelta(self._signature))))
        return [*events, self._event(ContentBlockStop(index))]

    def _event(self, event: Event) -> bytes:
        nth = self._nth
        self._nth += 1
        return b"id: %d-%d\n%b" % (self._offset, nth, frame(event))

    def _message(self, content: list[Block], stop: Stop, usage: MessageUsage) -> Message:
        id_ = f"msg_{self._rid}"
        return Message(id_, self._model, content, stop.stop_reason, stop.stop_sequence, usage)

    @property
    def _signature(self) -> str:
        """Clients that go on with a conversation leave out thoughts that have none."""
        return self._rid

    def _call_id(self, index: int, told: str) -> str:
        return told or f"toolu_{self._rid}_{index}"


def _input(arguments: str) -> JsonObject:
    try:
        return _arguments.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return {}


def _stop_of(end: End, *, has_calls: bool) -> Stop:
    """The stop sequence that ended the message is told where the engine tells it."""
    sequence = end.stop_reasons[0] if end.stop_reasons else None
    match end.finish_reasons[0] if end.finish_reasons else "stop":
        case "length":
            return Stop("max_tokens", None)
        case "content_filter":
            return Stop("refusal", None)
        case "stop" if isinstance(sequence, str):
            return Stop("stop_sequence", sequence)
        case _:
            # A call that the client has named ends with "stop".
            return Stop("tool_use" if has_calls else "end_turn", None)


def _usage_of(end: End, offset: int) -> MessageUsage:
    """`offset` tokens were passed on."""
    told = end.usage
    if told is None:
        return MessageUsage(0, offset)
    usage = MessageUsage(told.prompt_tokens - (told.cached_tokens or 0), told.completion_tokens)
    if told.cached_tokens is not None:
        usage.cache_read_input_tokens = told.cached_tokens
    if told.reasoning_tokens is not None:
        usage.output_tokens_details = ThinkingTokens(told.reasoning_tokens)
    return usage
