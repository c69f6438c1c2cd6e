"""What a refusal means: the table of the design, from the last ctl record to what the attempt does next."""

from __future__ import annotations

from typing import Literal

from schemas.dispatch import WorkItem
from schemas.output import CtlRecord, Failed, Handoff, Lease

Next = Literal["stored", "again", "lease", "fenced"]
"""The first try was stored; send it once more, whatever it met has passed; ask for a lease after the record; somebody
else has the request, or may have it."""


def after_refusal(
    record: CtlRecord | None, kind: str, nonce: str, item: WorkItem, *, is_held: bool, is_leased: bool
) -> Next:
    """What follows for the attempt `nonce`, whose publish of `kind` was refused, when `record` is the last of the log.
    An END is not in this table: whoever finds one acks."""
    if record is not None and record.nonce == nonce:
        return "stored" if _kind_of(record) == kind else "again"
    is_unleased_end = kind == "end" and not is_leased
    is_newer = isinstance(record, Lease) and record.attempt >= item.attempt
    return "fenced" if is_unleased_end or is_newer or not is_held else "lease"


def _kind_of(record: CtlRecord) -> str:
    match record:
        case Lease():
            return "lease"
        case Failed():
            return "failed"
        case Handoff():
            return "handoff"
        case _:
            return "end"
