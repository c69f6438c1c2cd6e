"""The tokens of one attempt: what the log holds of the request, and what waits to be appended."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

from schemas.choices import has_content
from schemas.log import Fold
from schemas.output import Delta, TokenLogprob, ToolPiece

ID_BYTES = 8
"""What an id takes in a record, estimated: up to seven digits and a comma."""

LOGPROB_BYTES = 96
"""What a logprob takes, estimated: its names, its number and the bytes of a short token."""


class Chunk(NamedTuple):
    """Tokens that are appended together or not at all, what they released, and the choice of each token (none: all are
    the first one's)."""

    ids: list[int]
    deltas: list[Delta]
    of: list[int]


class Tokens:
    """A queue of chunks behind a fold of the log. Chunks that are in flight stay in the queue until they are stored."""

    def __init__(self, logged: Fold) -> None:
        self.logged = logged
        self.is_cut = False
        """Whether tokens were dropped. An unanswered try may have stored some of them all the same."""
        self._waiting: deque[Chunk] = deque()
        self._in_flight = 0

    def push(self, ids: list[int], deltas: list[Delta], of: list[int] | None = None) -> None:
        """Takes what the engine made."""
        self._waiting.append(Chunk(ids, deltas, of or []))

    @property
    def off(self) -> int:
        """Offset of the first token that is not known to be in the log."""
        return len(self.logged.ids)

    @property
    def has_waiting(self) -> bool:
        """Whether anything is to be appended (or in flight)."""
        return bool(self._waiting)

    @property
    def made(self) -> int:
        """Tokens in the log and waiting."""
        return self.off + sum([len(chunk.ids) for chunk in self._waiting])

    @property
    def choices(self) -> int:
        """How many choices there are tokens of, as far as can be known; at least one."""
        return 1 + max([0, *self.logged.of, *[choice for chunk in self._waiting for choice in chunk.of]])

    def fit(self, bytes_max: int) -> bool:
        """Whether all that waits fits one record of `bytes_max`."""
        size = 0
        for chunk in self._waiting:
            size += _size(chunk)
            if size > bytes_max:
                return len(self._waiting) == 1
        return True

    def take(self, bytes_max: int) -> Chunk:
        """The next record: as many chunks as fit `bytes_max`, at least one, with the deltas of a choice merged."""
        assert self._in_flight == 0, "one append in flight per request"
        waiting = self._waiting
        count = len(waiting)
        if count == 1:
            self._in_flight = 1
            chunk = waiting[0]
            return chunk if len(chunk.deltas) < 2 else _merged([chunk])
        size = 0
        for index, chunk in enumerate(waiting):
            size += _size(chunk)
            if size > bytes_max and index:
                count = index
                break
        self._in_flight = count
        return _merged(list(islice(waiting, count)))

    def stored(self) -> None:
        """What was taken is in the log."""
        for _ in range(self._in_flight):
            ids, deltas, of = self._waiting.popleft()
            self.logged.add(len(self.logged.ids), ids, deltas, of)
        self._in_flight = 0

    def cut(self) -> None:
        """What waits has no room in the log."""
        self.is_cut = True
        self._waiting.clear()
        self._in_flight = 0

    def rebase(self, log: Fold) -> bool:
        """Sets these tokens on `log`, as a newer lease found it, if it equals a prefix of them that ends between two
        chunks: then what follows it waits, and nothing is in flight. Otherwise nothing changes.
        """
        if self.is_cut:
            return False
        if not log.ids and self.logged.ids:
            content = [choice.whole(index) for index, choice in enumerate(self.logged.choices)]
            self._waiting.appendleft(Chunk(self.logged.ids, content, self.logged.of))
            prefix, used = log, 0
        else:
            prefix, used = self.logged.copy(), 0
            for chunk in self._waiting:
                if len(prefix.ids) >= len(log.ids):
                    break
                prefix.add(len(prefix.ids), *chunk)
                used += 1
        if (prefix.ids, prefix.of) != (log.ids, log.of) or prefix.content_bytes != log.content_bytes:
            return False
        for _ in range(used):
            self._waiting.popleft()
        self.logged = log
        self._in_flight = 0
        return True

    def rest(self) -> Chunk:
        """All that waits, as one record."""
        return _merged(list(self._waiting))

    def whole(self) -> Fold:
        """The log with all that waits."""
        whole = self.logged.copy()
        for chunk in self._waiting:
            whole.add(len(whole.ids), *chunk)
        return whole

    def check(self) -> None:
        """Asserts the invariants."""
        assert 0 <= self._in_flight <= len(self._waiting)
        assert not self.logged.hole or not self._waiting, "a log with a hole is never continued"


def _merged(chunks: list[Chunk]) -> Chunk:
    ids = [token for chunk in chunks for token in chunk.ids]
    of: list[int] = []
    if any(chunk.of for chunk in chunks):
        of = [choice for chunk in chunks for choice in chunk.of or [0] * len(chunk.ids)]
    merged: list[Delta] = []
    alike: list[Delta] = []
    for chunk in chunks:
        for delta in chunk.deltas:
            if alike and not _are_alike(alike[0], delta):
                merged.append(_joined(alike))
                alike = []
            alike.append(delta)
    if alike:
        merged.append(_joined(alike))
    return Chunk(ids, [delta for delta in merged if has_content(delta)], of)


def _are_alike(one: Delta, other: Delta) -> bool:
    """Whether two deltas in a row can be one. Text, reasoning and calls stay apart: readers see them in this order."""
    return (
        one.choice == other.choice
        and bool(one.reasoning) == bool(other.reasoning)
        and bool(one.tools) == bool(other.tools)
        and (not one.reasoning or not (one.text or other.text or one.tools))
        and (not one.tools or not (one.text or other.text))
    )


def _joined(alike: list[Delta]) -> Delta:
    if len(alike) == 1:
        return alike[0]
    first = alike[0]
    text = "".join([delta.text for delta in alike])
    if not (first.reasoning or first.tools or any(delta.logprobs for delta in alike)):
        return Delta(text, first.choice)
    reasoning = "".join([delta.reasoning for delta in alike])
    tools: list[ToolPiece] = []
    for piece in (piece for delta in alike for piece in delta.tools):
        last = tools[-1] if tools else None
        if last is not None and last.index == piece.index:
            tools[-1] = ToolPiece(
                last.index, last.id + piece.id, last.name + piece.name, last.arguments + piece.arguments
            )
        else:
            tools.append(piece)
    logprobs = [logprob for delta in alike for logprob in delta.logprobs]
    return Delta(text, first.choice, reasoning, tools, logprobs)


def _size(chunk: Chunk) -> int:
    size = len(chunk.ids) * ID_BYTES + len(chunk.of) * 2
    for delta in chunk.deltas:
        size += len(delta.text)
        if delta.reasoning or delta.tools or delta.logprobs:
            size += len(delta.reasoning) + _size_of_logprobs(delta.logprobs)
            size += sum([len(piece.id) + len(piece.name) + len(piece.arguments) for piece in delta.tools])
    return size


def _size_of_logprobs(logprobs: list[TokenLogprob]) -> int:
    return sum([LOGPROB_BYTES * (1 + len(logprob.top)) for logprob in logprobs])
