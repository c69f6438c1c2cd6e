"""What a client reads of an answer, in every dialect that edges speak. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

Dialect = Literal["chat", "completion", "message", "response"]

PATHS: dict[Dialect, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "message": "/v1/messages",
    "response": "/v1/responses",
}

NO_JSON = "no_json"
"""The code of a refusal that nobody can read."""

_object = msgspec.json.Decoder(dict[str, Any])


class Event(NamedTuple):
    """A server-sent event. `id` is empty where it has none."""

    id: str
    data: bytes


class Splitter:
    """Bytes of an event stream in any pieces -> its events. Comments are none."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now."""
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        return [event for frame in frames if (event := _event(frame)) is not None]


def _event(frame: bytes) -> Event | None:
    event_id, data = "", b""
    for line in frame.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name == b"id":
            event_id = value.decode()
        elif name == b"data":
            data = value
    return Event(event_id, data) if data else None


def _error_in(body: bytes) -> dict[str, Any]:
    """What a refusal says; nobody promises that one which something else than an edge makes is JSON."""
    try:
        return dict(_object.decode(body).get("error") or {})
    except msgspec.DecodeError:
        return {"code": NO_JSON}


@dataclass
class Answer:
    """An answer as far as it has come. `error` is the code of one that was told ("": none); `is_done` after the last
    line of a stream, or with a whole answer."""

    dialect: Dialect
    last_id: str = ""
    is_done: bool = False
    error: str = ""
    finish_reason: str = ""
    tokens: int = -1
    pieces: list[tuple[str, int, str]] = field(default_factory=list)
    """Those of the newest event: its id, the choice, the text."""

    def event(self, event: Event) -> list[tuple[str, int, str]]:
        """Takes in an event; what text it brings, as (id, choice, text)."""
        self.pieces = []
        self.last_id = event.id or self.last_id
        if event.data == b"[DONE]":
            self.is_done = True
            return []
        said = _object.decode(event.data)
        if said.get("error") is not None:
            self._fail(said["error"])
        elif self.dialect in ("chat", "completion"):
            self._chunk(event.id, said)
        elif self.dialect == "message":
            self._message_event(event.id, said)
        else:
            self._response_event(event.id, said)
        return self.pieces

    def whole(self, status: int, body: bytes) -> list[tuple[str, int, str]]:
        """Takes in an answer that is no stream, also one that refuses."""
        self.pieces = []
        if status != 200:
            self._fail(_error_in(body))
            return []
        said = _object.decode(body)
        self.is_done = True
        if self.dialect in ("chat", "completion"):
            self._chunk("", said)
        elif self.dialect == "message":
            self._add("", 0, "".join(block.get("text", "") for block in said["content"]))
            self._message_end(said["stop_reason"], said["usage"])
        else:
            parts = [part for item in said["output"] for part in item.get("content", [])]
            self._add("", 0, "".join(part.get("text", "") for part in parts))
            self._response_end(said)
        return self.pieces

    def _add(self, event_id: str, choice: int, text: str) -> None:
        if text:
            self.pieces.append((event_id, choice, text))

    def _fail(self, error: dict[str, Any]) -> None:
        told = error.get("code") or error.get("details", {}).get("error_code") or error.get("type")
        self.error = str(told or "error")

    def _chunk(self, event_id: str, said: dict[str, Any]) -> None:
        for choice in said.get("choices", []):
            content = choice.get("message") or choice.get("delta") or choice
            self._add(event_id, choice["index"], content.get("content") or content.get("text") or "")
            if choice.get("finish_reason"):
                self.finish_reason = f"{self.finish_reason} {choice['finish_reason']}".lstrip()
        if said.get("usage"):
            self.tokens = said["usage"]["completion_tokens"]

    def _message_event(self, event_id: str, said: dict[str, Any]) -> None:
        match said["type"]:
            case "content_block_delta":
                self._add(event_id, 0, said["delta"].get("text", ""))
            case "message_delta":
                self._message_end(said["delta"]["stop_reason"], said["usage"])
            case "message_stop":
                self.is_done = True

    def _message_end(self, reason: str | None, usage: dict[str, Any]) -> None:
        self.finish_reason = reason or ""
        self.tokens = usage["output_tokens"]

    def _response_event(self, event_id: str, said: dict[str, Any]) -> None:
        match said["type"]:
            case "response.output_text.delta":
                self._add(event_id, 0, said["delta"])
            case "response.completed" | "response.incomplete":
                self._response_end(said["response"])
            case "response.failed":
                self._fail((said["response"].get("error")) or {})

    def _response_end(self, said: dict[str, Any]) -> None:
        if said["status"] not in ("completed", "incomplete"):
            self._fail(said.get("error") or {"code": said["status"]})
            return
        self.finish_reason = said["status"]
        if said.get("usage"):
            self.tokens = said["usage"]["output_tokens"]
