"""What an OpenAI-compatible server means by an answer that is not 200, and when to ask it again. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import msgspec

from workers.engines.base import FailReason

NOT_NOW = (408, 425, 429, 502, 503, 529)
"""It is there and takes no request at the moment, or a proxy says so for it; 529 is Anthropic's word for overloaded.
Not 500 and 504: they may be what this very request does to it."""

WAIT_MAX_S = 30.0
"""The longest wait between two tries: what an upstream needs to come back is soon noticed."""

WAIT_FIRST_S = 0.25
WAIT_MIN_S = 0.05
DOUBLINGS_MAX = 10

WORDS_MAX = 500
"""Characters of the upstream's own words that are passed on."""

_OWN_STATUSES_OF_FIELDS = (400, 422)
_CONTEXT = re.compile(
    r"context.{0,3}(length|size|window)|maximum model length|max_model_len|prompt is too long|"
    r"too many (input )?tokens|exceeds? .{0,40}(tokens|context)|inputs`? tokens",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(r"not supported|unsupported|does not support", re.IGNORECASE)


class NotNow(NamedTuple):
    """Ask again, after `retry_after_s` if that was told."""

    why: str
    retry_after_s: float | None = None


class Without(NamedTuple):
    """Ask again at once, without this field: it was ours, and the upstream does not know it."""

    field: str


class Refusal(NamedTuple):
    """It will not be answered."""

    reason: FailReason
    error: str


Verdict = NotNow | Without | Refusal


class Words(msgspec.Struct):
    """An error object, in any of the shapes that servers give it."""

    message: str
    code: str = ""
    param: str = ""


def judge(
    status: int, headers: Mapping[str, str], body: bytes, *, path: str, added: tuple[str, ...] = ()
) -> Verdict:
    """What an answer means. `headers` by lower-case names; `added` are the fields that the client did not send."""
    words = words_of(body)
    text = f"the model's server answered {status}: {words.message}"
    if status == 429 and words.code == "insufficient_quota":
        return Refusal("engine_error", text)
    if status in NOT_NOW:
        return NotNow(text, retry_after_s(headers))
    if status in (401, 403):
        # Not its words: they may repeat a part of the key.
        return Refusal("engine_error", f"the upstream answered {status}: check the setting upstream_api_key")
    if 300 <= status < 400:
        return Refusal(
            "engine_error", f"the upstream answered {status}, a redirect: check the setting upstream"
        )
    if status in _OWN_STATUSES_OF_FIELDS:
        refused = _field_refused(words, added)
        if refused:
            return Without(refused)
    if words.code == "context_length_exceeded" or (400 <= status <= 500 and _CONTEXT.search(words.message)):
        return Refusal("context_length", words.message)
    if status == 404 and ("model" in words.message.lower() or words.code == "model_not_found"):
        return Refusal("model_not_found", words.message)
    if status in (404, 405, 501):
        return Refusal("bad_request", f"the server of this model does not offer /{path}")
    if 400 <= status < 500 or (status == 500 and _UNSUPPORTED.search(words.message)):
        return Refusal("bad_request", words.message)
    return Refusal("engine_error", text)


def words_of(body: bytes) -> Words:
    """What an error's body says, cut to a bearable length."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Words(_cut(body.decode(errors="replace").strip() or "no reason"))
    error = told
    if isinstance(told, dict):
        error = told.get("error") or told.get("detail") or told
    if not isinstance(error, dict):
        return Words(_cut(error if isinstance(error, str) else msgspec.json.encode(error).decode()))
    message = error.get("message") or error.get("error") or msgspec.json.encode(error).decode()
    return Words(_cut(str(message)), _text(error.get("code")), _text(error.get("param")))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the upstream asks to be left alone, in seconds; None: it does not say so."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        told = _number(headers.get(name, ""))
        if told is not None:
            return told * unit_s
    until, its_now = _date(headers.get("retry-after", "")), _date(headers.get("date", ""))
    if until is None or its_now is None:
        return None
    return max(0.0, (until - its_now).total_seconds())


def wait_s(tries: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds until the next try after `tries` in vain: what was told, else doubling; never above `WAIT_MAX_S`.

    `chance` is in [0, 1): those who were sent away together come back one by one.
    """
    if retry_after_s is not None:
        return min(max(retry_after_s, WAIT_MIN_S) * (1 + chance / 10), WAIT_MAX_S)
    longest: float = min(WAIT_FIRST_S * 2.0 ** min(tries, DOUBLINGS_MAX), WAIT_MAX_S)
    return longest * (1 + chance) / 2


def _field_refused(words: Words, added: tuple[str, ...]) -> str:
    """The one of our fields that an error is about; a field deeper in counts as the one it is in."""
    by_param = [field for field in added if words.param.partition(".")[0] == field]
    by_message = [field for field in added if re.search(rf"\b{field}\b", words.message)]
    return next(iter([*by_param, *by_message]), "")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None


def _cut(text: str) -> str:
    return text if len(text) <= WORDS_MAX else text[: WORDS_MAX - 1] + "…"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
