"""The tokens of one attempt: what the log holds of the request, and what waits to be appended."""

from __future__ import annotations

from collections import deque
from itertools import groupby, islice
from typing import NamedTuple

from schemas.log import Fold
from schemas.output import Delta

ID_BYTES = 8
"""What an id takes in a record, estimated: up to seven digits and a comma."""


class Chunk(NamedTuple):
    """Tokens that are appended together or not at all, and the text they released."""

    ids: list[int]
    deltas: list[Delta]


class Tokens:
    """A queue of chunks behind a fold of the log. Chunks that are in flight stay in the queue until they are stored."""

    def __init__(self, logged: Fold) -> None:
        self.logged = logged
        self.is_cut = False
        """Whether tokens were dropped. An unanswered try may have stored some of them all the same."""
        self._waiting: deque[Chunk] = deque()
        self._in_flight = 0

    def push(self, ids: list[int], deltas: list[Delta]) -> None:
        """Takes what the engine made."""
        self._waiting.append(Chunk(ids, deltas))

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
            ids, deltas = self._waiting.popleft()
            self.logged.add(len(self.logged.ids), ids, deltas)
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
            texts = [Delta(text, choice) for choice, text in enumerate(self.logged.texts) if text]
            self._waiting.appendleft(Chunk(self.logged.ids, texts))
            prefix, used = log, 0
        else:
            prefix, used = _copy(self.logged), 0
            for chunk in self._waiting:
                if len(prefix.ids) >= len(log.ids):
                    break
                prefix.add(len(prefix.ids), *chunk)
                used += 1
        if prefix.ids != log.ids or prefix.text_bytes != log.text_bytes:
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
        whole = _copy(self.logged)
        for chunk in self._waiting:
            whole.add(len(whole.ids), *chunk)
        return whole

    def check(self) -> None:
        """Asserts the invariants."""
        assert 0 <= self._in_flight <= len(self._waiting)
        assert not self.logged.hole or not self._waiting, "a log with a hole is never continued"


def _merged(chunks: list[Chunk]) -> Chunk:
    ids = [token for chunk in chunks for token in chunk.ids]
    deltas = (delta for chunk in chunks for delta in chunk.deltas)
    merged = [
        Delta("".join([delta.text for delta in run]), choice)
        for choice, run in groupby(deltas, key=lambda delta: delta.choice)
    ]
    return Chunk(ids, [delta for delta in merged if delta.text])


def _size(chunk: Chunk) -> int:
    return len(chunk.ids) * ID_BYTES + sum([len(delta.text) for delta in chunk.deltas])


def _copy(fold: Fold) -> Fold:
    return Fold(list(fold.ids), [list(pieces) for pieces in fold.pieces], fold.end, fold.hole)
