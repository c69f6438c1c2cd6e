"""Going on with an answer that was cut off as the final message of its chat, where that is known to be exact. Pure.

A server that tells token ids can say what it makes of a chat: first of the chat itself, by an answer of one token, then
of the chat with the answer so far as its last message. If the second is the first followed by the very tokens of the
log, the model goes on from where it was; a template that trims, a text that is encoded in another way than it was made,
half a character at its end: all of them show, and the answer is made again from its start instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.output import Usage
from workers.engines.base import Prefix

PLAIN = (
    *("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "n", "seed", "stream"),
    *("top_p", "top_k", "min_p", "ignore_eos", "chat_template_kwargs", "user", "metadata", "store"),
)
"""Fields that leave no state on the output side of an engine: all others may, such as stop strings and penalties."""

LIMITS = ("max_tokens", "max_completion_tokens")

_encode = msgspec.json.Encoder().encode


class FinalMessage(msgspec.Struct):
    """The answer so far: its text, its tokens, and the prompt's once they are known."""

    text: str
    ids: list[int]
    prompt_ids: list[int] | None = None

    def probe(self, fields: Mapping[str, msgspec.Raw]) -> bytes:
        """The body that asks for the tokens of the chat itself."""
        limits = {name: 1 for name in LIMITS if name in fields}
        asked = {name: value for name, value in fields.items() if name != "stream_options"}
        return _encode({**asked, "stream": False, "return_token_ids": True, **limits})

    def probed(self, body: bytes) -> bool:
        """Takes the answer to it. False: it does not tell, or begins otherwise."""
        try:
            told = msgspec.json.decode(body, type=_Probed)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        self.prompt_ids = told.prompt_token_ids
        begins_alike = bool(told.choices) and told.choices[0].token_ids == self.ids[:1]
        return begins_alike and told.prompt_token_ids is not None

    def content(self, fields: Mapping[str, msgspec.Raw]) -> bytes:
        """The body that asks for the rest."""
        messages: list[Any] = msgspec.json.decode(fields["messages"], type=list[msgspec.Raw])
        messages.append({"role": "assistant", "content": self.text})
        limits = {
            name: msgspec.json.decode(fields[name]) - len(self.ids) for name in LIMITS if name in fields
        }
        own = {"continue_final_message": True, "add_generation_prompt": False, "return_token_ids": True}
        return _encode({**fields, "messages": messages, **own, **limits})

    def is_exact(self, prompt_ids: list[int] | None) -> bool:
        """Whether this prompt of the rest is the chat's followed by the log's tokens."""
        return self.prompt_ids is not None and prompt_ids == self.prompt_ids + self.ids

    def whole(self, rest: Usage) -> Usage:
        """The usage of the request, by that of its rest."""
        known = len(self.ids)
        return msgspec.structs.replace(
            rest, prompt_tokens=rest.prompt_tokens - known, completion_tokens=rest.completion_tokens + known
        )


def final_message(fields: Mapping[str, msgspec.Raw], prefix: Prefix | None) -> FinalMessage | None:
    """What may be continued in this way of a chat: a plain, greedy one, with a log of nothing but text, by tokens whose
    ids are known; None: nothing."""
    if prefix is None or "messages" not in fields or not set(fields) <= set(PLAIN):
        return None
    if len(prefix.choices) != 1 or not prefix.choices[0].is_plain or any(prefix.of) or not all(prefix.ids):
        return None
    limits = [msgspec.json.decode(fields[name]) for name in LIMITS if name in fields]
    # Without a limit the server's own would be counted from the cut.
    if not limits or any(not isinstance(limit, int) or limit <= len(prefix.ids) for limit in limits):
        return None
    text = prefix.choices[0].text
    return FinalMessage(text, prefix.ids) if text else None


class _ProbedChoice(msgspec.Struct):
    token_ids: list[int] | None = None


class _Probed(msgspec.Struct):
    choices: list[_ProbedChoice]
    prompt_token_ids: list[int] | None = None
