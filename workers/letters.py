"""Dead letters: what is kept of a poisoned request, for whoever looks into it or sends it again."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from schemas import subjects
from schemas.dead import DEAD_LETTER, DeadLetter, Tried, encode_dead_letter
from schemas.dispatch import WorkItem
from schemas.ids import ModelKey
from schemas.log import Entry
from schemas.output import CtlRecord, End, Failed, Tok
from schemas.requests import meta_headers

HEADERS_BYTES_MAX = 60_000
"""The broker refuses a message with more than 64 KiB of headers (measured); the rest is for the one that it adds."""

ERROR_CHARS_MAX = 1000
"""What a letter repeats of an engine's error: enough for the exception and the end of its traceback."""


def letter_headers(
    item: WorkItem, model: ModelKey, end: End, entries: list[Entry], tokens: int
) -> dict[str, str]:
    """The headers of the copy in DEAD: the request's own, and the letter. Where the whole history is too long for a
    header the newest part of it is told."""
    headers = {name: _one_line(value) for name, value in meta_headers(item.meta).items()}
    letter = DeadLetter(
        subject=subjects.request(item.klass, model, item.tenant, item.rid),
        reason=end.reason,
        message=end.message,
        tokens=tokens,
        history=[],
    )
    room = HEADERS_BYTES_MAX - sum(len(name) + len(value.encode()) for name, value in headers.items())
    room -= len(encode_dead_letter(letter).encode())
    history: list[Tried] = []
    for entry in reversed(entries):
        if isinstance(entry.record, Tok):
            continue
        tried = Tried(entry.seq, _shortened(entry.record))
        room -= len(msgspec.json.encode(tried)) + len(",")
        if room < 0:
            break
        history.append(tried)
    return headers | {DEAD_LETTER: encode_dead_letter(replace(letter, history=history[::-1]))}


def _shortened(record: CtlRecord) -> CtlRecord:
    if isinstance(record, Failed) and len(record.error) > ERROR_CHARS_MAX:
        return replace(record, error="… " + record.error[-ERROR_CHARS_MAX:])
    return record


def _one_line(value: str) -> str:
    """A direct publisher's header may hold half a line break, which would forge one of ours."""
    return value.replace("\r", " ").replace("\n", " ")
