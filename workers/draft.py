"""What an attempt has yet to store: the tokens that wait, and the ctl record that comes last."""

from __future__ import annotations

from math import inf

from schemas.dispatch import WorkItem
from schemas.log import Fold
from schemas.output import End, Failed, Handoff, Tok, encode
from workers import records
from workers.events import Kind
from workers.limits import Worker
from workers.run import Run
from workers.tokens import Tokens

Closing = End | Failed | Handoff


Next = tuple[Kind, bytes]
"""A record: what it is, and its bytes."""


class Draft:
    """The rest of a log. `closing` is how the attempt ends, once that is decided: its nonce, count and hash are filled
    in when it is stored. `append_at` is when the first tokens may go, `flush_at` when those that wait for others to
    join them do."""

    def __init__(self, worker: Worker, run: Run, append_at: float) -> None:
        self.tokens = Tokens(Fold())
        self.closing: Closing | None = None
        self.flush_at = inf
        self._worker = worker
        self._run = run
        self._append_at = append_at
        self._found: int | None = None

    def next(self, item: WorkItem, lease_seq: int, nonce: str, now: float) -> Next | None:
        """The record that is stored next under this lease. Nothing else of it is in flight."""
        tokens, closing = self.tokens, self.closing
        match closing:
            case None:
                if not tokens.has_waiting:
                    return None
                if now < self._append_at:
                    self.flush_at = self._append_at
                    return None
            case End():
                if closing.reason == "output_full" and tokens.has_waiting:
                    tokens.cut()
                if tokens.fit(self._worker.limits.append_bytes_max):
                    timings = self._run.timings(now)
                    is_text_wanted = not item.meta.stream and not self._worker.is_output_full
                    end = records.end_of_owner(
                        closing, item, tokens, timings, nonce, lease_seq, is_text_wanted=is_text_wanted
                    )
                    return "end", encode(end)
            case Failed():
                return "failed", encode(Failed(nonce=nonce, error=closing.error))
            case Handoff():
                if not tokens.has_waiting:
                    return "handoff", encode(Handoff(nonce=nonce, n=tokens.off))
        if self._worker.is_output_full:
            self.cut_off(item)
            return self.next(item, lease_seq, nonce, now)
        if not item.meta.stream:
            self._append_at = now + self._worker.limits.append_interval_s
        off = tokens.off
        ids, deltas, of = tokens.take(self._worker.limits.append_bytes_max)
        return "append", encode(Tok(lease_seq, off, ids, deltas, of))

    def cut_off(self, item: WorkItem) -> None:
        """OUTPUT takes no more tokens: what is in the log stands, what waits is dropped."""
        self.tokens.cut()
        if self.closing is None or is_complete(self.closing):
            self.closing = records.end_output_full(item)

    def rebase(self, log: Fold) -> bool:
        """Goes on from `log`, with the tokens that wait where they extend it. False: the request has to be run again,
        from there."""
        if self._found is None:
            self._found = len(log.ids)
        is_kept = self.tokens.rebase(log)
        if is_kept and (self._run.number or self.closing is not None):
            return True
        self.tokens = Tokens(log)
        if self.closing is not None and not is_complete(self.closing):
            return True
        self.closing = None
        return False

    def tally(self, *, is_whole: bool) -> tuple[int, int, int]:
        """Tokens of the request so far, those that the engine has made for this attempt, and how many of these did not
        get into the log. `is_whole`: all that waits is in it, in END."""
        logged = (self.tokens.made if is_whole else self.tokens.off) - (self._found or 0)
        return self.tokens.made, self._run.made, max(0, self._run.made - max(0, logged))

    def check(self) -> None:
        """Asserts the invariants. What waits while the broker is away is bounded: an engine makes no more tokens of a
        choice than the model's context holds, and whatever is not connected takes no more requests than it has slots.
        """
        self.tokens.check()
        made_max = self._worker.capabilities.context_tokens_max * self.tokens.choices
        assert self.tokens.made <= made_max, "the context bounds what waits"

    def refuse(self, verdict: End, log: Fold) -> None:
        """The log itself forbids to go on, whatever was to come."""
        self.tokens = Tokens(log)
        self.closing = verdict


def is_complete(closing: Closing) -> bool:
    """Whether nothing is missing of the output but its way into the log."""
    return isinstance(closing, End) and closing.status == "ok"
