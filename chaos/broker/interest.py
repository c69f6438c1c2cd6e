"""Who wants which subjects: exact ones and wildcards, found in a few dictionary look-ups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Interest(Generic[T]):
    """Items by the pattern they were added with; `match` finds those whose pattern covers a subject.

    Nearly every pattern of a NATS client is a literal or a prefix with one `*` at the end (an inbox, the live
    records of a request): those two cost one look-up each. The few others are tried one by one, if the subject starts
    like one of them.
    """

    def __init__(self) -> None:
        self._exact: dict[bytes, tuple[T, ...]] = {}
        self._under: dict[bytes, tuple[T, ...]] = {}
        self._others: dict[bytes, tuple[T, ...]] = {}
        self._tries: list[tuple[Callable[[bytes], bool], tuple[T, ...]]] = []
        self._starts: tuple[bytes, ...] = ()

    def add(self, pattern: bytes, item: T) -> None:
        """`item` is found from now on, after those that were there before it with the same kind of pattern."""
        table, key = self._table_of(pattern)
        table[key] = (*table.get(key, ()), item)
        if table is self._others:
            self._prepare()

    def remove(self, pattern: bytes, item: T) -> None:
        """`item`, added with this very pattern, is not found any more."""
        table, key = self._table_of(pattern)
        left = tuple(one for one in table[key] if one is not item)
        if left:
            table[key] = left
        else:
            del table[key]
        if table is self._others:
            self._prepare()

    def match(self, subject: bytes) -> tuple[T, ...]:
        """Every item whose pattern covers `subject`, in an order that depends only on how they were added."""
        found = self._exact.get(subject, ())
        if self._under:
            prefix, _, last = subject.rpartition(b".")
            under = self._under.get(prefix)
            if under and last:
                found += under
        if subject.startswith(self._starts) and not _has_empty_token(subject):
            for covers, items in self._tries:
                if covers(subject):
                    found += items
        return found

    def _table_of(self, pattern: bytes) -> tuple[dict[bytes, tuple[T, ...]], bytes]:
        if not is_wildcard(pattern):
            return self._exact, pattern
        prefix, dot, last = pattern.rpartition(b".")
        if dot and last == b"*" and not is_wildcard(prefix):
            return self._under, prefix
        return self._others, pattern

    def _prepare(self) -> None:
        self._tries = [(matcher(pattern), items) for pattern, items in self._others.items()]
        self._starts = tuple(_start(pattern) for pattern in self._others)


def is_wildcard(pattern: bytes) -> bool:
    """Whether `pattern` has a token that stands for others."""
    return (b"*" in pattern or b">" in pattern) and any(
        token in (b"*", b">") for token in pattern.split(b".")
    )


def is_pattern(pattern: bytes) -> bool:
    """Whether a client may subscribe to it: no empty token, `>` only at the end."""
    tokens = pattern.split(b".")
    return b"" not in tokens and b">" not in tokens[:-1]


def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """A function that says whether a subject is covered by `pattern`."""
    if not is_wildcard(pattern):
        return pattern.__eq__
    wanted = pattern.split(b".")
    if wanted[-1] == b">" and b"*" not in wanted:
        prefix = pattern[:-1]
        return lambda subject: subject.startswith(prefix) and len(subject) > len(prefix)
    return lambda subject: _covers(wanted, subject.split(b"."))


def overlap(one: bytes, other: bytes) -> bool:
    """Whether some subject is covered by both patterns."""
    left, right = one.split(b"."), other.split(b".")
    for mine, theirs in zip(left, right, strict=False):
        if b">" in (mine, theirs):
            return True
        if mine != theirs and b"*" not in (mine, theirs):
            return False
    return len(left) == len(right)


def _covers(wanted: list[bytes], tokens: list[bytes]) -> bool:
    for at, token in enumerate(wanted):
        if token == b">":
            return len(tokens) > at
        if at >= len(tokens) or (token not in (b"*", tokens[at])):
            return False
    return len(wanted) == len(tokens)


def _start(pattern: bytes) -> bytes:
    """What every subject that `pattern` covers starts with."""
    start = b""
    for token in pattern.split(b"."):
        if token in (b"*", b">"):
            break
        start += token + b"."
    return start


def _has_empty_token(subject: bytes) -> bool:
    return b".." in subject or subject.startswith(b".") or subject.endswith(b".") or not subject
