"""A response's events and its object. Pure.

Events are numbered from 0 on, and every number is a function of the log: 0 is `response.created`, which may be asked
for last. The number is the event's id, too, so `starting_after` and `Last-Event-ID` mean the same place everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge.dialect import KEEP_ALIVE, Elapsed
from edge.errors import DONE, Problem, error_object, problem_of
from edge.openai_shape import encode
from edge.relay import Tokens
from edge.responses.output import CallItem, ItemStatus, Message, Thoughts, shown_logprob
from edge.responses.record import NOTHING_ASKED
from schemas.choices import Choice
from schemas.output import Delta, End, ToolPiece

RESPONSE_PREFIX = "resp_"

ALWAYS_NULL = (
    "access_programs",
    "conversation",
    "image",
    "input_transformations",
    "moderation",
    "prompt",
    "prompt_cache_diagnostics",
    "prompt_cache_options",
    "tool_usage",
)
"""Fields of OpenAI's object that nothing here has a word for."""

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not all of it, by the reason it ended for."""

_ERROR_CODES = ("rate_limit_exceeded", "invalid_image", "failed_to_download_image")
"""Of ours, those that OpenAI's list for errors in a response has as well."""


class ResponseShape:
    """One reading of one response. `asked` is what its object repeats of the request; without that it says what it
    would of a request for nothing special, and the events are the same. `clock`: Unix seconds at which the response is
    complete, when it is found to be; None: nobody tells.

    An item ends when another begins, but for calls: the pieces of several may come in any order. Logprobs stand at the
    text that their tokens made; those of tokens that brought none wait for the next text.
    """

    keep_alive = KEEP_ALIVE

    def __init__(
        self,
        rid: str,
        model: str,
        created: int,
        asked: Mapping[str, Any] = NOTHING_ASKED,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.id = f"{RESPONSE_PREFIX}{rid}"
        self._rid = rid
        self._model = model
        self._created = created
        self._asked = asked
        self._clock = clock
        self._number = 1
        self._is_begun = False
        self._items: list[Message | Thoughts | CallItem] = []
        self._open: Message | Thoughts | None = None
        self._calls: dict[int, CallItem] = {}
        self._text_head = b""
        self._unshown: list[dict[str, Any]] = []

    def opening(self) -> bytes:
        """`response.created`: it is queued for whoever does not wait for it."""
        status = "queued" if self._asked["background"] else "in_progress"
        return _frame(0, "response.created", _numbered(0, {"response": self._object(status, [])}))

    def tokens(self, tokens: Tokens) -> bytes:
        """The events of one record."""
        frames: list[bytes] = []
        if not self._is_begun:
            frames.append(self._begin())
        for delta in tokens.deltas:
            self._take(delta, frames)
        return b"".join(frames)

    def ending(self, end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The last events of what is open, and the whole object."""
        frames = [] if self._is_begun else [self._begin()]
        frames += self._finish(end)
        shown = self._whole(end)
        frames.append(self._event(f"response.{shown['status']}", {"response": shown}))
        return b"".join([*frames, DONE])

    def failing(self, problem: Problem, rid: str) -> bytes:
        """`response.failed`, and an error that makes clients raise which do not look for that. A response that only
        goes on elsewhere has not failed."""
        error = error_object(problem, rid)
        frames = []
        number = self._number
        if problem.resume is None:
            frames.append(
                _frame(None, "response.failed", _numbered(number, {"response": self.failed(problem)}))
            )
            number += 1
        told = {name: error[name] for name in ("code", "message", "param")}
        frames.append(_frame(None, "error", _numbered(number, {**told, "error": error})))
        return b"".join([*frames, DONE])

    def whole(self, choices: list[Choice], end: End, offset: int, elapsed: Elapsed | None = None) -> bytes:
        """The object of what was shown, or else of `choices`."""
        is_shown = self._items and end.text is None
        return encode(self.ended(end) if is_shown else self.told(choices, end))

    def told(self, choices: list[Choice], end: End) -> dict[str, Any]:
        """The object of a response whose output is `choices`, whatever was shown of it."""
        self._items, self._open, self._calls, self._text_head, self._unshown = [], None, {}, b"", []
        for choice in choices[:1]:
            self._take(choice.whole(0), [])
        return self.ended(end)

    def receipt(self) -> bytes:
        """The object of a response that has just been stored."""
        return encode(self._object("queued", []))

    def ended(self, end: End) -> dict[str, Any]:
        """The object of a response that ended."""
        problem = problem_of(end)
        if problem is not None:
            return self.failed(problem)
        self._finish(end)
        return self._whole(end)

    def failed(self, problem: Problem) -> dict[str, Any]:
        """The object of a response that ended badly, with what there is of its output."""
        output = self._output("incomplete")
        if problem.reason == "cancelled":
            return self._object("cancelled", output)
        row = problem.row
        code = (
            row.code
            if row.code in _ERROR_CODES
            else "server_error"
            if row.status >= 500
            else "invalid_prompt"
        )
        if row.status == 429:
            code = "rate_limit_exceeded"
        error = {
            "code": code,
            "message": problem.message,
            "param": problem.param,
            "type": row.code or row.type_,
        }
        return self._object("failed", output) | {"error": error}

    def so_far(self) -> dict[str, Any]:
        """The object of a response that has not ended."""
        return self._object("in_progress" if self._is_begun else "queued", self._output("in_progress"))

    def begin(self) -> None:
        """An attempt has shown itself, though nothing of its output has."""
        self._is_begun = True

    def output_items(self) -> list[dict[str, Any]]:
        """What the output adds to a conversation."""
        return [item.shown("completed") for item in self._items]

    def _output(self, status: ItemStatus) -> list[dict[str, Any]]:
        """All items; `status` is that of those which may grow."""
        last = self._items[-1] if self._items else None
        return [
            item.shown(status if item is last or isinstance(item, CallItem) else "completed")
            for item in self._items
        ]

    def _begin(self) -> bytes:
        self._is_begun = True
        return self._event("response.in_progress", {"response": self._object("in_progress", [])})

    def _take(self, delta: Delta, frames: list[bytes]) -> None:
        if self._text_head and not (delta.reasoning or delta.tools or delta.logprobs or self._unshown):
            if delta.text:
                assert self._open is not None
                self._open.pieces.append(delta.text)
                frames.append(self._text_event(delta.text))
            return
        if delta.reasoning:
            self._think(delta.reasoning, frames)
            self._unshown = []
        if delta.logprobs and (delta.text or not (delta.reasoning or delta.tools)):
            self._unshown += [shown_logprob(told) for told in delta.logprobs]
        if delta.text:
            self._say(delta.text, frames)
        for piece in delta.tools:
            self._call(piece, frames)
            self._unshown = []

    def _think(self, text: str, frames: list[bytes]) -> None:
        item = self._open
        if not isinstance(item, Thoughts):
            self._close("completed", frames)
            item = Thoughts(f"rs_{self._rid}_{len(self._items)}", len(self._items))
            self._add(item, frames)
        item.pieces.append(text)
        frames.append(
            self._event("response.reasoning_text.delta", {**_at(item), "content_index": 0, "delta": text})
        )

    def _say(self, text: str, frames: list[bytes]) -> None:
        item = self._open
        if not isinstance(item, Message):
            self._close("completed", frames)
            item = self._new_message(frames)
        item.pieces.append(text)
        if self._unshown:
            logprobs, self._unshown = self._unshown, []
            item.logprobs += logprobs
            fields = {**_at(item), "content_index": 0, "delta": text, "logprobs": logprobs}
            frames.append(self._event("response.output_text.delta", fields))
        else:
            frames.append(self._text_event(text))

    def _call(self, piece: ToolPiece, frames: list[bytes]) -> None:
        item = self._calls.get(piece.index)
        if item is None:
            self._close("completed", frames)
            index = len(self._items)
            item = CallItem(
                f"fc_{self._rid}_{index}", index, piece.id or f"call_{self._rid}_{index}", piece.name
            )
            self._calls[piece.index] = item
            self._add(item, frames)
        if piece.arguments:
            item.pieces.append(piece.arguments)
            fields = {**_at(item), "delta": piece.arguments}
            frames.append(self._event("response.function_call_arguments.delta", fields))

    def _new_message(self, frames: list[bytes]) -> Message:
        item = Message(f"msg_{self._rid}_{len(self._items)}", len(self._items))
        self._add(item, frames)
        return item

    def _add(self, item: Message | Thoughts | CallItem, frames: list[bytes]) -> None:
        self._items.append(item)
        fields = {"output_index": item.index, "item": item.shown("in_progress")}
        frames.append(self._event("response.output_item.added", fields))
        if isinstance(item, CallItem):
            return
        self._open = item
        part = {**_at(item), "content_index": 0, "part": item.part()}
        frames.append(self._event("response.content_part.added", part))
        if isinstance(item, Message):
            kind = {"type": "response.output_text.delta", **_at(item), "content_index": 0, "logprobs": []}
            self._text_head = b"event: response.output_text.delta\ndata: " + encode(kind)[:-1]

    def _text_event(self, text: str) -> bytes:
        number = self._number
        self._number += 1
        return b'id: %d-0\n%b,"sequence_number":%d,"delta":%b}\n\n' % (
            number,
            self._text_head,
            number,
            encode(text),
        )

    def _close(self, status: ItemStatus, frames: list[bytes]) -> None:
        """The last events of the item that grows, if that is no call."""
        item, self._open, self._text_head = self._open, None, b""
        if item is None:
            return
        if isinstance(item, Message):
            item.logprobs += self._unshown
            self._unshown = []
        part = item.part()
        place = {**_at(item), "content_index": 0}
        if isinstance(item, Message):
            fields = {**place, "text": part["text"], "logprobs": part["logprobs"]}
            frames.append(self._event("response.output_text.done", fields))
        else:
            frames.append(self._event("response.reasoning_text.done", {**place, "text": part["text"]}))
        frames.append(self._event("response.content_part.done", {**place, "part": part}))
        frames.append(self._done(item, status))

    def _done(self, item: Message | Thoughts | CallItem, status: ItemStatus) -> bytes:
        fields = {"output_index": item.index, "item": item.shown(status)}
        return self._event("response.output_item.done", fields)

    def _finish(self, end: End) -> list[bytes]:
        """The last events of all that is open; an output of nothing is an empty message."""
        frames: list[bytes] = []
        if not self._items:
            self._new_message(frames)
        self._close(self._last_status(end), frames)
        for item in self._calls.values():
            done = {**_at(item), "name": item.name, "arguments": item.arguments}
            frames.append(self._event("response.function_call_arguments.done", done))
            frames.append(self._done(item, self._status_of(item, end)))
        return frames

    def _whole(self, end: End) -> dict[str, Any]:
        output = [item.shown(self._status_of(item, end)) for item in self._items]
        usage = {"usage": _usage(end)}
        reason = _incomplete(end)
        if reason is not None:
            return self._object("incomplete", output) | usage | {"incomplete_details": {"reason": reason}}
        completed_at = None if self._clock is None else self._clock()
        return self._object("completed", output) | usage | {"completed_at": completed_at}

    def _status_of(self, item: Message | Thoughts | CallItem, end: End) -> ItemStatus:
        return self._last_status(end) if item is self._items[-1] else "completed"

    def _last_status(self, end: End) -> ItemStatus:
        return "completed" if _incomplete(end) is None else "incomplete"

    def _object(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": output,
            "usage": None,
            **self._asked,
            **dict.fromkeys(ALWAYS_NULL),
        }

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        number = self._number
        self._number += 1
        return _frame(number, kind, _numbered(number, fields))


def recordless(rid: str, model: str, created: int, *, include_usage: bool) -> ResponseShape:
    """The shape of a response that is read by its rid alone. Usage is a part of every response."""
    return ResponseShape(rid, model, created)


def _at(item: Message | Thoughts | CallItem) -> dict[str, Any]:
    return {"item_id": item.id, "output_index": item.index}


def _numbered(number: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {"sequence_number": number, **fields}


def _frame(number: int | None, kind: str, fields: dict[str, Any]) -> bytes:
    place = b"" if number is None else b"id: %d-0\n" % number
    return b"%bevent: %b\ndata: %b\n\n" % (place, kind.encode(), encode({"type": kind, **fields}))


def _incomplete(end: End) -> str | None:
    return _INCOMPLETE.get(end.finish_reasons[0]) if end.finish_reasons else None


def _usage(end: End) -> dict[str, Any] | None:
    told = end.usage
    if told is None:
        return None
    return {
        "input_tokens": told.prompt_tokens,
        "input_tokens_details": {"cached_tokens": told.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": told.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": told.reasoning_tokens or 0},
        "total_tokens": told.prompt_tokens + told.completion_tokens,
    }
