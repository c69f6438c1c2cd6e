"""The checker of histories: it finds nothing in a good one, and what was changed in every other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from chaos.real.checker import CHECKS, Evidence, check, examine, statistics
from chaos.real.history import (
    Asked,
    Cancelled,
    Fault,
    Headed,
    Line,
    Over,
    Removed,
    Sample,
    Settled,
    Stored,
    Told,
)
from edge.ends import CLIENT_GONE
from schemas.output import Delta, End, Lease, Tok
from schemas.streams import OUTPUT, REQUESTS
from tests.unit.chaos.doctoring import (
    Doctor,
    added,
    all_left_out,
    changed,
    left_out,
    repeated,
    rewritten,
)
from tests.unit.chaos.good_history import CANCELLED, DIRECT, POISON, REFUSED, STORY, History, body, good


def over(ask: int) -> Callable[[Line], bool]:
    return lambda line: isinstance(line, Over) and line.ask == ask


def told(ask: int) -> Callable[[Line], bool]:
    return lambda line: isinstance(line, Told) and line.ask == ask


def asked(ask: int) -> Callable[[Line], bool]:
    return lambda line: isinstance(line, Asked) and line.ask == ask


def headed(ask: int) -> Callable[[Line], bool]:
    return lambda line: isinstance(line, Headed) and line.ask == ask


def queued(rid: str) -> Callable[[Line], bool]:
    return lambda line: isinstance(line, Stored) and line.stream == REQUESTS and rid in line.subject


def output(rid: str) -> Callable[[Line], bool]:
    return lambda line: isinstance(line, Stored) and line.stream == OUTPUT and rid in line.subject


def end_of(rid: str) -> Callable[[Line], bool]:
    return lambda line: output(rid)(line) and isinstance(line, Stored) and b'"t":"end"' in bytes(line.record)


def removed(nth: int) -> Callable[[Line], bool]:
    """The removals are in the order of the requests that were queued."""
    meant = [line for line in good() if isinstance(line, Removed)][nth - 1]
    return lambda line: line == meant


def settled(line: Line) -> bool:
    return isinstance(line, Settled)


def cancelled(line: Line) -> bool:
    return isinstance(line, Cancelled)


def last_sample(line: Line) -> bool:
    return isinstance(line, Sample) and line.at > 1000.1


def both(*doctors: Doctor) -> Doctor:
    def doctor(lines: list[Line]) -> list[Line]:
        for one in doctors:
            lines = one(lines)
        return lines

    return doctor


def as_refused(line: Line) -> Line:
    assert isinstance(line, Stored)
    return msgspec.structs.replace(
        line, seq=9_000, subject=line.subject.replace(STORY, REFUSED).replace("ann", "bob")
    )


DOCTORED: list[tuple[str, str, Doctor]] = [
    ("I1", "an END that is lost", left_out(end_of(DIRECT))),
    ("I1", "a request that is lost", both(all_left_out(output(DIRECT)), left_out(queued(DIRECT)))),
    ("I1", "two ENDs", repeated(STORY, End)),
    ("I1", "a cancel that nobody wanted", both(
        all_left_out(cancelled),
        changed(over(4), outcome="complete", reason=""),
    )),
    ("I1", "a client that had detached", both(
        rewritten(STORY, End, status="cancelled", nonce="", n=None, message=CLIENT_GONE.message),
    )),
    ("I1", "an early expiry", rewritten(STORY, End, status="expired", reason="request_timeout")),
    ("I2", "an ack without an END", left_out(end_of(POISON))),
    ("I2", "an ack before END", changed(removed(1), asked_at=1000.05)),
    ("I2", "a message that had gone before END", changed(removed(4), asked_at=0.0, gone_at=1000.3)),
    ("I3", "tokens after END", repeated(STORY, Tok)),
    ("I3", "a lease after END", repeated(STORY, Lease, nonce="w9")),
    ("I3", "what is no record", changed(output(STORY), record=msgspec.Raw(b'"?"'))),
    ("I4", "a hole", rewritten(STORY, Tok, 1, off=3)),
    ("I4", "a record that is missing", left_out(lambda line: output(STORY)(line) and b'"off":2' in bytes(line.record))),  # type: ignore[union-attr]
    ("I4", "a repeat that says something else", repeated(CANCELLED, Tok, deltas=[Delta("x")])),
    ("I4", "an END that counts otherwise", rewritten(STORY, End, n=5)),
    ("I4", "an END with another hash", rewritten(STORY, End, sha256="0" * 64)),
    ("I4", "an END with another text", rewritten(DIRECT, End, text=["x", "y"])),
    ("I5", "an attempt that begins anew", rewritten(STORY, Tok, 1, off=0)),
    ("I5", "a nonce of another attempt", rewritten(DIRECT, Lease, nonce="w1")),
    ("I6", "an event told twice", added(told(1), lambda line: line)),
    ("I6", "an event left out", left_out(told(3))),
    ("I6", "another text", changed(told(2), text="nonsense")),
    ("I6", "another text to the last reader", changed(told(3), text="nonsense")),
    ("I6", "half an answer told as a whole", left_out(told(2))),
    ("I6", "an event before where it goes on", changed(told(2), id="3-0")),
    ("I6", "a good end of what failed", changed(over(5), outcome="complete", reason="")),
    ("I6", "tokens that were not made", changed(over(2), tokens=7)),
    ("I6", "a lost log", changed(over(4), reason="log_lost")),
    ("I6", "what it was told of is not there", changed(over(2), outcome="error", reason="not_found")),
    ("I7", "an old lease", rewritten(STORY, Tok, 1, lease=103)),
    ("I7", "an END of an old attempt", rewritten(STORY, End, nonce="w1")),
    ("I7", "tokens without a lease", left_out(output(DIRECT))),
    ("I8", "another text than the reference", rewritten(CANCELLED, Tok, deltas=[Delta("other")])),
    ("I8", "less than the reference", changed(queued(STORY), record=msgspec.Raw(body("a story", max_tokens=9)))),
    ("I9", "a refused one that runs", added(queued(STORY), as_refused)),
    ("I9", "two runs of a key", both(changed(asked(5), key="k1"), rewritten(POISON, End, status="ok"))),
    ("I9", "a key that is told to stand for another body", changed(over(3), reason="idempotency_mismatch")),
    ("I10", "healthy, and ended as poison", changed(queued(POISON), record=msgspec.Raw(body("poison")))),
    ("I10", "too many attempts", both(*[repeated(CANCELLED, Lease, nonce=f"n{n}") for n in range(21)])),
    ("I10", "poison that keeps its place", left_out(removed(3))),
    ("I11", "a request shown to another tenant", changed(asked(2), tenant="bob")),
    ("I11", "another's body queued", changed(queued(CANCELLED), record=msgspec.Raw(body("a story")))),
    ("I12", "memory", changed(last_sample, rss_bytes=500 << 20)),
    ("I12", "files", changed(last_sample, files=400)),
    ("I12", "subscriptions", changed(last_sample, subscriptions=400)),
    ("I13", "a cancel before END", changed(cancelled, at=1000.2)),
    ("I13", "tokens after a cancel", repeated(CANCELLED, Tok, late_s=1.0, off=1)),
    ("I13", "a cancel of what is said not to be", changed(cancelled, status=404)),
    ("liveness", "a queue that does not drain", changed(settled, queued=3)),
    ("liveness", "a client without an answer", left_out(over(2))),
    ("liveness", "a client that lost patience", changed(over(2), outcome="broken", reason="no_answer")),
]  # fmt: skip


def test_a_good_history_has_nothing_wrong_and_everything_to_look_at() -> None:
    findings = examine(Evidence(good()))
    assert not findings.violations
    assert not findings.blind


def test_every_invariant_has_a_doctored_history() -> None:
    assert {invariant for invariant, _, _ in DOCTORED} == set(CHECKS)


@pytest.mark.parametrize(("invariant", "what", "doctor"), DOCTORED, ids=[f"{i}: {w}" for i, w, _ in DOCTORED])
def test_a_doctored_history_is_found_out(invariant: str, what: str, doctor: Doctor) -> None:
    doctored = doctor(good())
    assert doctored != good(), what
    found = check(doctored)
    assert invariant in {violation.invariant for violation in found}, [str(one) for one in found]


def spy(line: Line) -> Line:
    fields = {"way": "stream", "klass": "standard", "door": "x", "body": msgspec.Raw(b"null")}
    return Asked(at=line.at, ask=90, request=1, tenant="bob", rid=STORY, may_fail="foreign", **fields)  # type: ignore[arg-type]


HARMLESS: list[tuple[str, Doctor]] = [
    ("a request that is queued while nobody has looked", both(
        all_left_out(settled),
        left_out(removed(4)),
        left_out(end_of(DIRECT)),
        changed(over(7), outcome="left"),
    )),
    ("a refusal after the head of its answer", both(
        all_left_out(output(DIRECT)),
        left_out(queued(DIRECT)),
        left_out(removed(4)),
        all_left_out(told(7)),
        changed(over(7), outcome="error", reason="broker_away"),
    )),
    ("a spy that is told nothing", added(over(3), spy)),
    ("what the tap has read twice", added(queued(STORY), lambda line: line)),
    ("a cancel that nobody answered", added(cancelled, lambda line: msgspec.structs.replace(line, status=0))),
    ("a client that leaves and does not come back", both(
        all_left_out(told(2)),
        changed(over(2), outcome="left"),
        all_left_out(told(3)),
        changed(over(3), outcome="left"),
    )),
]  # fmt: skip


@pytest.mark.parametrize("doctor", [doctor for _, doctor in HARMLESS], ids=[what for what, _ in HARMLESS])
def test_what_may_happen_is_not_held_against_anybody(doctor: Doctor) -> None:
    found = [one for one in check(doctor(good())) if one.message != "ask 90 was neither answered nor cut off"]
    assert not found, [str(one) for one in found]


def unconfirmed(*, was_queued: bool) -> list[Line]:
    """Nobody can say whether a request was accepted; its client comes back, and cancels. Then its edge ends it."""
    rid = f"{'doubt':x<26}"
    lines = good()
    place = next(index for index, line in enumerate(lines) if isinstance(line, Settled))
    history = History()
    history.at, history.asks, history.seq = lines[place - 1].at, 90, 9_000
    first = history.ask(90, "bob", rid, body=msgspec.Raw(body("in doubt")))
    if was_queued:
        history.queue("bob", rid, body("in doubt"))
    history.tell(lambda at: Over(at, first, "unknown", "outcome_unknown"))
    again = history.ask(90, "bob", rid, status=404, last_event_id="0-0")
    history.tell(lambda at: Over(at, again, "error", "not_found"))
    history.tell(lambda at: Cancelled(at, 90, rid, 404))
    history.ctl("bob", rid, End(status="cancelled", reason="cancelled"))
    if was_queued:
        history.settle(rid, "deleted")
    return [*lines[:place], *history.lines, *lines[place:]]


def test_nobody_can_know_of_a_request_before_anything_of_it_is_stored() -> None:
    assert not [one for one in check(unconfirmed(was_queued=False)) if one.invariant in ("I6", "I13")]
    assert {one.invariant for one in check(unconfirmed(was_queued=True))} >= {"I6", "I13"}


def test_a_violation_tells_what_happened_in_time_order() -> None:
    (violation,) = check(left_out(removed(3))(good()))
    assert (violation.invariant, violation.rid) == ("I10", POISON)
    (lost,) = [one for one in check(rewritten(STORY, End, n=5)(good())) if one.invariant == "I4"]
    times = [float(line.split()[0]) for line in lost.story]
    assert times == sorted(times)
    for said in ("asks http://b for a stream answer", "REQUESTS takes it", "w1: leases", "FAULT begins: kill worker",
                 "w2: leases", "tokens 2 to 3", "is told", "END", "is not in REQUESTS any more"):  # fmt: skip
        assert any(said in line for line in lost.story), said


def test_stalls_are_put_down_to_the_faults_in_them() -> None:
    lines = good()
    for line in lines:
        if isinstance(line, Fault):
            assert line.kind == "kill worker"
    found = statistics(Evidence(lines))
    assert found.outcomes == {"complete": 2, "error cancelled": 1, "error poison": 1, "refused queue_full": 1}
    assert found.faults == {"kill worker": 1}
    killed = found.stalls["kill worker"]
    assert killed.streams == 2, "the stream that the kill fell into, and the one that was read soon after"
    assert killed.max_s == pytest.approx(0.05), "lease, fault and the first new record lie between its pieces"
