"""I9 of idempotency keys: one has one run that ends well, however many clients ask under it."""

from __future__ import annotations

from collections import Counter

from chaos.clients import Reader
from chaos.ledger import Ledger, Violated


def check_keys(readers: list[Reader], ledger: Ledger, violated: Violated, count: Counter[str]) -> None:
    """When all is over. No two keys have the same body."""
    keys = {reader.wish.body: reader.wish.key for reader in readers if reader.wish.key is not None}
    runs: dict[bytes, list[str]] = {body: [] for body in keys}
    for log in ledger.logs.values():
        if log.end is not None and log.end.status == "ok" and log.reference.body in runs:
            runs[log.reference.body].append(log.name[1])
    was_lost = any(log.was_lost for log in ledger.logs.values())
    for body, rids in runs.items():
        count[f"runs of a key that ended well: {len(rids)}"] += 1
        if len(rids) > 1 and not was_lost:
            violated("I9", f"the key {keys[body]} has several runs that ended well: {rids}")
    told = Counter(reader.wish.key for reader in readers if reader.wish.key and reader.is_done)
    count["several were answered under a key"] += sum(several > 1 for several in told.values())
