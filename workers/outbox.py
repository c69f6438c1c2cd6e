"""What one attempt has asked of the broker and repeats until it is answered: one publish, and one read."""

from __future__ import annotations

from math import inf

from schemas import subjects
from schemas.dispatch import WorkItem
from workers.events import Action, Forget, Kind, Publish, ReadCtl, ReadLog, Refused
from workers.limits import Worker

WRONG_LAST = 10071
"""A CAS or a fence did not hold: somebody else wrote a ctl record."""

FULL = 10077
"""A limit of the stream was reached. That may last, so it is never answered with the same bytes at once."""

TOO_LARGE = (10054, 10097)
"""Larger than the broker takes a message, or its headers: no other try will do better."""

BUSY = (10164, 503)
"""A replica still works on a message with the same expectation; nobody leads the stream right now. Both pass soon."""

BUSY_RETRY_S = 0.05
"""Elections take seconds, a busy expectation about a millisecond: often enough for one, not too often for the other."""

FULL_RETRY_S = 2.0
"""Room comes back with the age of records, in seconds at the best."""


class Outbox:
    """At most one publish in flight. One that was refused with 10071 is parked while the last ctl record is read."""

    def __init__(self, item: WorkItem, worker: Worker, key: str) -> None:
        self.publish: Publish | None = None
        self.reading: ReadCtl | ReadLog | None = None
        self.is_parked = False
        self.retry_at = inf
        self.tries = 0
        """How often the publish in flight was sent."""
        self._is_read_out = False
        self._seq_min = 0
        self._worker = worker
        self._key = key
        self._tenant, self._rid = item.tenant, item.rid
        self._ctl = subjects.output_ctl(item.tenant, item.rid)
        self._tok = subjects.output_tok(item.tenant, item.rid)

    def send(self, kind: Kind, expect: int, body: bytes, now: float) -> list[Action]:
        """Publishes, in place of a publish that was parked."""
        subject = self._tok if kind == "append" else self._ctl
        return self._send(
            Publish(self._key, self._worker.number(), kind, subject, self._ctl, expect, body), now
        )

    def send_letter(self, subject: str, headers: dict[str, str], body: bytes, now: float) -> list[Action]:
        """Publishes a dead letter, unless there is one."""
        return self._send(
            Publish(self._key, self._worker.number(), "dead", subject, subject, 0, body, headers), now
        )

    def answered(self) -> Publish:
        """The publish in flight (or parked) needs no other try."""
        publish = self.publish
        assert publish is not None
        self.publish = None
        self.is_parked = False
        self.retry_at = inf
        return publish

    def refused(self, event: Refused, now: float) -> list[Action]:
        """10071 asks the log; anything else is the same bytes again, soon if the broker was only busy."""
        if event.err_code == WRONG_LAST:
            self.is_parked = True
            self._seq_min = event.last_seq
            return self.read_ctl()
        match event.err_code:
            case code if code in BUSY:
                self.retry_after(BUSY_RETRY_S, now)
            case code if code == FULL:
                self.retry_after(FULL_RETRY_S, now)
            case _:
                self.retry_after(self._worker.limits.append_timeout_s, now)
        return []

    def retry_after(self, seconds: float, now: float) -> None:
        """What was refused (or not answered) is asked again after `seconds`, or with the next connection."""
        self.retry_at = now + seconds if self._worker.connected else inf

    def resend_soon(self, now: float) -> None:
        """What was parked is to be sent again: the log does not speak against it."""
        self.is_parked = False
        self.retry_after(BUSY_RETRY_S, now)

    def read_ctl(self) -> list[Action]:
        """Reads the last ctl record; an older read of it does not count any more."""
        return self._read(ReadCtl(self._key, self._worker.number(), self._tenant, self._rid))

    def read_log(self, upto_seq: int) -> list[Action]:
        """Reads the log up to and including `upto_seq`."""
        return self._read(ReadLog(self._key, self._worker.number(), self._tenant, self._rid, upto_seq))

    def is_reading(self, op: int) -> bool:
        """Whether this is the read that counts."""
        return self.reading is not None and self.reading.op == op

    def read_failed(self, now: float) -> None:
        """The read is repeated if something depends on it; a hint was only a hint."""
        self._is_read_out = False
        if isinstance(self.reading, ReadLog) or self.is_parked:
            self.retry_after(BUSY_RETRY_S, now)
        else:
            self.reading = None

    def read_done(self, seq: int, now: float) -> bool:
        """The read was answered with a record at `seq`. False: the answer is older than the record that is looked for,
        and it is read again."""
        self._is_read_out = False
        if self.is_parked and seq < self._seq_min:
            self.retry_after(BUSY_RETRY_S, now)
            return False
        self.reading = None
        return True

    def retry(self, now: float) -> list[Action]:
        """Asks again what was not answered: the same bytes, never more."""
        if self.reading is not None and not self._is_read_out:
            return self._read(self.reading)
        assert self.publish is not None, "a retry is of a read or of a publish"
        return self._transmit(self.publish, now)

    def connection_changed(self, now: float) -> None:
        """Without a connection nothing is repeated; with a new one all of it is, at once."""
        is_waiting = self.publish is not None and not self.is_parked
        has_failed_read = self.reading is not None and not self._is_read_out
        self.retry_at = now if self._worker.connected and (is_waiting or has_failed_read) else inf

    def drop(self) -> list[Action]:
        """No answer matters any more."""
        publish, self.publish = self.publish, None
        self.reading = None
        self.is_parked = False
        self.retry_at = inf
        return [] if publish is None else [Forget(publish.op)]

    def check(self) -> None:
        """Asserts the invariants."""
        assert not self.is_parked or (self.publish is not None and self.reading is not None)
        assert self.retry_at == inf or self.publish is not None or self.reading is not None

    def _read(self, read: ReadCtl | ReadLog) -> list[Action]:
        self.reading = read
        self._is_read_out = True
        if self.publish is None or self.is_parked:
            self.retry_at = inf
        return [read]

    def _send(self, publish: Publish, now: float) -> list[Action]:
        assert self.publish is None or self.is_parked, "one publish in flight"
        self.is_parked = False
        self.publish = publish
        self.tries = 0
        return self._transmit(publish, now)

    def _transmit(self, publish: Publish, now: float) -> list[Action]:
        if not self._worker.connected:
            self.retry_at = inf
            return []
        self.retry_at = now + self._worker.limits.append_timeout_s
        self.tries += 1
        return [publish]
