"""Bodies of Anthropic's Messages API, as far as they are understood. Pure.

Blocks that the answer is made of are the ones that a conversation brings back: one type serves both.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

import msgspec

from edge.errors import Problem
from edge.openai_bodies import Count, Probability

Name = Annotated[str, msgspec.Meta(min_length=1)]
StopSequence = Annotated[str, msgspec.Meta(min_length=1)]
TopK = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=1)]
JsonObject = dict[str, msgspec.Raw]
"""Its values stay as they are written."""


class Text(msgspec.Struct, tag_field="type", tag="text"):
    """A piece of text."""

    text: str


class Base64Source(msgspec.Struct, tag_field="type", tag="base64"):
    """An image that came along."""

    media_type: str
    data: str


class UrlSource(msgspec.Struct, tag_field="type", tag="url"):
    """An image that lies elsewhere."""

    url: str


class Image(msgspec.Struct, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source | UrlSource


class Thinking(msgspec.Struct, tag_field="type", tag="thinking"):
    """What a model thought. The signature is ours to make and nobody's to check."""

    thinking: str
    signature: str = ""


class RedactedThinking(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """Thoughts that only their author can read."""


class ToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call that a model asks for."""

    id: str
    name: str
    input: JsonObject


class ToolResult(msgspec.Struct, tag_field="type", tag="tool_result"):
    """What a call has brought."""

    tool_use_id: str
    content: str | list[Text | Image] | None = None
    is_error: bool | None = None


UserBlock = Text | Image | ToolResult
AssistantBlock = Text | Thinking | RedactedThinking | ToolUse


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    """A turn of the client."""

    content: str | Annotated[list[UserBlock], msgspec.Meta(min_length=1)]


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    """A turn of the model. As the last one it is the beginning of the answer, which goes on from there."""

    content: str | list[AssistantBlock]


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    """What the client tells the model in the middle of a conversation."""

    content: str | list[Text]


Message = UserMessage | AssistantMessage | SystemMessage


class Tool(msgspec.Struct):
    """A function that may be called. Tools that a server runs itself have other types, and there are none."""

    name: Name
    input_schema: JsonObject
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None


class ToolChoice(msgspec.Struct):
    """Whether tools are called; `name` is of the one that must be, for the type "tool"."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct):
    """Whether the model thinks first. No engine keeps to a budget unless its operator prepares it for that, so
    `budget_tokens` is accepted and means nothing: thoughts count towards `max_tokens`."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Count | None = None


class JsonFormat(msgspec.Struct):
    """The schema that the answer's text is to have."""

    type: Literal["json_schema"]
    schema: JsonObject


class OutputConfig(msgspec.Struct):
    """What the answer is to be like."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class Metadata(msgspec.Struct):
    """Who the client asks for."""

    user_id: str | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    system: str | list[Text] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None


class MessageBody(CountBody, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: list[StopSequence] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    metadata: Metadata | None = None


_B = TypeVar("_B", bound=CountBody)
_AT = " - at `$"
"""What msgspec ends its words with, a path after it. The words before it may hold the client's text, as it is: a
pattern would look for the path at each place in there that looks like this, up to the end of all."""

_MISSING = re.compile(r"Object missing required field `(\w+)`")


def decode(data: bytes, kind: type[_B]) -> tuple[_B, JsonObject] | Problem:
    """A body and all its fields, or what is wrong with it, which names the field: `messages.0.content.1.text`."""
    try:
        text = data.decode()
        body = msgspec.json.decode(text, type=kind)
        fields = msgspec.json.decode(text, type=JsonObject)
    except msgspec.ValidationError as error:
        return _invalid(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Problem("bad_request", f"the body is not valid JSON: {error}")
    except RecursionError:
        return Problem("bad_request", "the body is nested too deeply")
    return _fault_of_thread(fields) or _fault_of_choice(body) or (body, fields)


def _fault_of_thread(fields: JsonObject) -> Problem | None:
    """A client that believes that a server keeps its conversation sends only what is new. That must not be taken for
    all of it; one that is told sends everything."""
    if bytes(fields.get("thread", b"null")) == b"null":
        return None
    words = "thread: no conversation is kept here; send all of its messages, without `thread`"
    return Problem("thread_unsupported", words, "thread")


def _fault_of_choice(body: CountBody) -> Problem | None:
    choice = body.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        return None
    names = [tool.name for tool in body.tools or []]
    if not names:
        return _fault("tool_choice", f"`{choice.type}` needs tools")
    if choice.type == "any" or choice.name in names:
        return None
    return _fault("tool_choice.name", "must be the name of one of the tools")


def _invalid(text: str) -> Problem:
    before, at, place = text.rpartition(_AT)
    what, missing = (before if at else text), _MISSING.match(text)
    path = re.sub(r"\[(\w+|\.\.\.)\]", r".\1", place.removeprefix(".").removesuffix("`")) if at else ""
    if missing is not None:
        return _fault(f"{path}.{missing[1]}".removeprefix("."), "field required")
    return _fault(path, what) if path else Problem("bad_request", f"the body is invalid: {what}")


def _fault(path: str, what: str) -> Problem:
    return Problem("bad_request", f"{path}: {what}", path)
