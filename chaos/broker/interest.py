"""Who wants which subjects: exact ones and wildcards, found in a few dictionary look-ups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Interest(Generic[T]):
    """Items by the pattern they were added with; `match` finds those whose pattern covers a subject.

    Nearly every pattern of a NATS client is a literal or a prefix with one `*` at the end (an inbox, the live
    records of a request): those two cost one look-up each. All others are in a tree by token.
    """

    def __init__(self) -> None:
        self._exact: dict[bytes, tuple[T, ...]] = {}
        self._under: dict[bytes, tuple[T, ...]] = {}
        self._root: _Node[T] = _Node()

    def add(self, pattern: bytes, item: T) -> None:
        """`item` is found from now on, after those that were there before it with the same kind of pattern."""
        table, key = self._table_of(pattern)
        if table is not None:
            table[key] = (*table.get(key, ()), item)
        else:
            self._root.add(pattern.split(b"."), item)

    def remove(self, pattern: bytes, item: T) -> None:
        """`item`, added with this very pattern, is not found any more."""
        table, key = self._table_of(pattern)
        if table is None:
            self._root.remove(pattern.split(b"."), item)
            return
        left = tuple(one for one in table[key] if one is not item)
        if left:
            table[key] = left
        else:
            del table[key]

    def match(self, subject: bytes) -> tuple[T, ...]:
        """Every item whose pattern covers `subject`, in an order that depends only on how they were added."""
        found = self._exact.get(subject, ())
        if self._under:
            prefix, _, last = subject.rpartition(b".")
            under = self._under.get(prefix)
            if under and last:
                found += under
        root = self._root
        if root.children or root.below:
            tokens = subject.split(b".")
            if tokens[0] in root.children or b"*" in root.children or root.below:
                deep: list[T] = []
                if b"" not in tokens:
                    root.match(tokens, 0, deep)
                if deep:
                    found += tuple(deep)
        return found

    def _table_of(self, pattern: bytes) -> tuple[dict[bytes, tuple[T, ...]] | None, bytes]:
        prefix, dot, last = pattern.rpartition(b".")
        if not is_wildcard(pattern):
            return self._exact, pattern
        if dot and last == b"*" and not is_wildcard(prefix):
            return self._under, prefix
        return None, b""


class _Node(Generic[T]):
    """One token of the patterns in the tree."""

    __slots__ = ("below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[T]] = {}
        self.here: tuple[T, ...] = ()
        self.below: tuple[T, ...] = ()

    def add(self, tokens: list[bytes], item: T) -> None:
        if not tokens:
            self.here += (item,)
        elif tokens == [b">"]:
            self.below += (item,)
        else:
            child = self.children.setdefault(tokens[0], _Node())
            child.add(tokens[1:], item)

    def remove(self, tokens: list[bytes], item: T) -> None:
        if not tokens:
            self.here = tuple(one for one in self.here if one is not item)
        elif tokens == [b">"]:
            self.below = tuple(one for one in self.below if one is not item)
        else:
            child = self.children[tokens[0]]
            child.remove(tokens[1:], item)
            if not (child.children or child.here or child.below):
                del self.children[tokens[0]]

    def match(self, tokens: list[bytes], at: int, found: list[T]) -> None:
        if at == len(tokens):
            found.extend(self.here)
            return
        found.extend(self.below)
        child = self.children.get(tokens[at])
        if child is not None:
            child.match(tokens, at + 1, found)
        child = self.children.get(b"*")
        if child is not None:
            child.match(tokens, at + 1, found)


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
