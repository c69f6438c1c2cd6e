"""A client's body as llama.cpp's server takes it: what it lacks is added, what only its operator may decide is not let
through. All other fields stay the bytes the client sent. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from schemas.requests import prompts_in
from workers.engines.seeds import seed_of

Call = Literal["chat_completions", "completions", "embeddings"]

OPERATORS_FIELDS = (
    "id_slot",  # slots are shared: a request that names one would wait for a stranger's
    "n_cmpl",  # another name of `n`, and these two of `max_tokens`
    "n_predict",
    "max_completion_tokens",
    "sse_ping_interval",  # its comments have no place in a stream that has no socket
)


SHAPING_FIELDS = ("response_format", "json_schema", "grammar", "tools", "functions")
"""What gives the answer a grammar already, or parts that are no text."""


class BadBody(ValueError):
    """The client's mistake; the message names the field."""


class LlamaBody(msgspec.Struct, frozen=True):
    """What to call with which body. `choices` are those of all prompts, of which each has `of_each`. `shows_top`: a
    token's alternatives were asked for, not only its logprob. `is_plain`: one choice of nothing but text, so that a
    grammar may say how it begins."""

    call: Call
    body: bytes
    choices: int = 1
    of_each: int = 1
    shows_top: bool = False
    is_plain: bool = False


def llama_body(body: bytes, *, rid: str, max_tokens: int) -> LlamaBody:
    """Reads a client's body. `max_tokens` holds where it names no limit. Raises BadBody."""
    try:
        fields = msgspec.json.decode(body.decode(), type=dict[str, msgspec.Raw])
        return _translated(body, fields, rid, max_tokens)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"the request's body is not a JSON object: {error}") from None


def beginning_with(body: LlamaBody, text: str) -> LlamaBody:
    """The same request, made to begin with `text`: by a grammar, which only speaks up where the model would say
    something else."""
    fields = msgspec.json.decode(body.body, type=dict[str, msgspec.Raw])
    forced = msgspec.json.encode({**fields, "grammar": f'root ::= "{_literal(text)}" [\\x00-\\U0010FFFF]*'})
    return msgspec.structs.replace(body, body=forced, is_plain=False)


def _translated(body: bytes, fields: dict[str, msgspec.Raw], rid: str, max_tokens: int) -> LlamaBody:
    if "messages" in fields:
        _refuse_fetching(_value(fields, "messages"))
        return _generation("chat_completions", fields, rid, max_tokens)
    if "prompt" in fields:
        return _generation("completions", fields, rid, max_tokens)
    if "input" in fields:
        return LlamaBody("embeddings", body)
    raise BadBody("the request has no prompt: `messages`, `prompt` or `input` is required")


def _generation(call: Call, fields: dict[str, msgspec.Raw], rid: str, max_tokens: int) -> LlamaBody:
    limits = (_value(fields, "max_completion_tokens"), _value(fields, "max_tokens"), max_tokens)
    choices = _value(fields, "n")
    added: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": next(limit for limit in limits if limit is not None),
        # A prefill is seen to go on: without this it would be silent until its end.
        "return_progress": True,
    }
    if _value(fields, "seed") is None:
        added["seed"] = seed_of(rid)
    elif "cache_prompt" not in fields:
        # Who asks for a seed wants the same answer again, and a prompt that comes out of the cache is rounded
        # differently from one that is read.
        added["cache_prompt"] = False
    shows_top = _ask_logprobs(call, fields, added)
    for name in OPERATORS_FIELDS:
        fields.pop(name, None)
    if choices is None:
        fields.pop("n", None)
    whole = msgspec.json.encode({**fields, **added})
    of_each = choices if isinstance(choices, int) else 1
    prompt = _value(fields, "prompt") if call == "completions" else ""
    # What is no prompt at all is refused by llama.cpp itself.
    count = of_each * max(1, prompts_in(prompt) if isinstance(prompt, list) else 1)
    is_plain = count == 1 and not any(_value(fields, name) for name in SHAPING_FIELDS)
    return LlamaBody(call, whole, count, of_each, shows_top, is_plain)


def _ask_logprobs(call: Call, fields: dict[str, msgspec.Raw], added: dict[str, Any]) -> bool:
    """llama.cpp gives logprobs only with at least one alternative."""
    asked = _value(fields, "logprobs")
    if asked is None or asked is False:
        return False
    name = "top_logprobs" if call == "chat_completions" else "logprobs"
    if _value(fields, name):
        return True
    added[name] = 1
    return False


def _refuse_fetching(value: Any) -> None:
    """llama.cpp would open any URL or file that a message names: only what the request itself holds gets there."""
    match value:
        case list():
            for item in value:
                _refuse_fetching(item)
        case dict():
            for name, item in value.items():
                if isinstance(name, str) and name.endswith("_url"):
                    url = item.get("url") if isinstance(item, dict) else item
                    if not (isinstance(url, str) and url.startswith("data:")):
                        raise BadBody(f"`{name}` must be a data: URI: this engine fetches nothing")
                elif isinstance(item, dict | list):
                    _refuse_fetching(item)


def _literal(text: str) -> str:
    """As it stands between quotes in llama.cpp's notation of grammars."""
    return "".join(
        f"\\x{ord(letter):02X}" if letter < " " else f"\\{letter}" if letter in '"\\' else letter
        for letter in text
    )


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:
    """None: not there, or null."""
    return msgspec.json.decode(fields[name]) if name in fields else None
