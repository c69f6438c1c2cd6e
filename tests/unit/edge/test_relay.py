"""The relay, rule by rule, and then against any loss and repetition."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.relay import Broken, Ended, Output, Relay, Replay, Tokens
from schemas.log import Entry, fold
from schemas.output import CtlRecord, Delta, End, Lease, Tail, Tok

LEASE = Lease(nonce="a", worker="w1", attempt=1, cause="first")
OK = End(status="ok", n=3)


def tok(off: int, text: str = "x", *, lease: int = 10, count: int = 1) -> Tok:
    return Tok(lease=lease, off=off, ids=list(range(off, off + count)), deltas=[Delta(text)])


def started(relay: Relay, upto: int, *, now: float = 0.0) -> Relay:
    """`relay` after it has folded tokens 0 .. upto - 1."""
    for off in range(upto):
        assert relay.live_tok(tok(off), now) == [Tokens(off + 1, [Delta("x")])]
    return relay


def test_live_records_are_passed_on_as_they_come() -> None:
    relay = Relay(0.0)
    assert relay.live_ctl(LEASE, 0.1) == []
    assert relay.live_tok(tok(0, "he", count=2), 0.2) == [Tokens(2, [Delta("he")])]
    assert relay.live_tok(tok(2, "y"), 0.3) == [Tokens(3, [Delta("y")])]
    assert relay.live_ctl(OK, 0.4) == [Ended(OK, 3)]
    assert relay.over
    assert relay.live_ctl(OK, 0.5) == []
    assert relay.next_deadline() is None


def test_a_repeat_is_dropped() -> None:
    relay = started(Relay(0.0), 3)
    assert relay.live_tok(tok(1), 0.0) == []
    assert relay.live_tok(tok(2), 0.0) == []


def test_a_gap_is_filled_from_the_log() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.live_tok(tok(2, "c"), 1.0) == [Replay(1)]
    assert relay.stored(Entry(10, LEASE)) == []
    assert relay.stored(Entry(11, tok(0))) == []
    assert relay.stored(Entry(12, tok(1, "b"))) == [Tokens(2, [Delta("b")])]
    assert relay.stored(Entry(13, tok(2, "c"))) == [Tokens(3, [Delta("c")])]
    assert relay.replay_done(1.1) == []
    assert relay.live_tok(tok(3, "d"), 1.2) == [Tokens(4, [Delta("d")])]


def test_the_next_replay_starts_after_the_last_sequence_read() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.live_tok(tok(2), 1.0) == [Replay(1)]
    relay.stored(Entry(11, tok(0)))
    relay.stored(Entry(12, tok(1)))
    relay.stored(Entry(15, tok(2)))
    relay.replay_done(1.1)
    assert relay.missed() == [Replay(16)]


def test_a_replica_that_lags_is_asked_again_after_50_ms() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.live_tok(tok(3), 1.0) == [Replay(1)]
    assert relay.replay_done(1.0) == []
    assert relay.next_deadline() == pytest.approx(1.05)
    assert relay.live_tok(tok(4), 1.01) == [], "it is known already that something is missing"
    assert relay.tick(1.04) == []
    assert relay.tick(1.05) == [Replay(1)]
    relay.replay_done(1.06)
    assert relay.next_deadline() == pytest.approx(1.21)


def test_live_records_that_fit_are_folded_while_a_replay_runs() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.missed() == [Replay(1)]
    assert relay.live_tok(tok(1), 0.1) == [Tokens(2, [Delta("x")])]
    assert relay.live_tok(tok(3), 0.1) == [], "one replay at a time"
    assert relay.stored(Entry(11, tok(0))) == []
    assert relay.stored(Entry(12, tok(1))) == []
    assert relay.replay_done(0.2) == []
    assert relay.next_deadline() == pytest.approx(0.25)


def test_live_records_that_come_while_a_replay_runs_follow_it() -> None:
    """Otherwise a log that is read more slowly than it grows is read for ever, in bursts."""
    relay = started(Relay(0.0), 1)
    assert relay.live_tok(tok(2, "c"), 1.0) == [Replay(1)]
    assert relay.live_tok(tok(3, "d"), 1.02) == []
    assert relay.live_tok(tok(4, "e"), 1.04) == []
    relay.stored(Entry(10, LEASE))
    relay.stored(Entry(11, tok(0)))
    assert relay.stored(Entry(12, tok(1, "b"))) == [Tokens(2, [Delta("b")])]
    assert relay.stored(Entry(13, tok(2, "c"))) == [Tokens(3, [Delta("c")])]
    assert relay.replay_done(1.05) == [Tokens(4, [Delta("d")]), Tokens(5, [Delta("e")])]
    assert relay.live_tok(tok(5, "f"), 1.06) == [Tokens(6, [Delta("f")])]


def test_a_replay_that_brought_something_but_not_all_is_repeated_after_50_ms() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.live_tok(tok(9), 1.0) == [Replay(1)]
    for read in range(1, 7):  # a replica that lags behind by ever less
        assert relay.stored(Entry(10 + read, tok(read))) == [Tokens(read + 1, [Delta("x")])]
        assert relay.replay_done(float(read)) == []
        assert relay.next_deadline() == pytest.approx(read + 0.05)
        assert relay.tick(read + 0.05) == [Replay(11 + read)]


def test_silence_before_the_first_record_is_replayed_at_50_200_800_ms_and_every_2_s() -> None:
    relay = Relay(100.0)
    due = []
    for _ in range(5):
        deadline = relay.next_deadline()
        assert deadline is not None
        assert relay.tick(deadline) == [Replay(1)]
        assert relay.next_deadline() is None, "while a replay runs"
        relay.replay_done(deadline)
        due.append(deadline - 100)
    assert due == pytest.approx([0.05, 0.2, 0.8, 2.8, 4.8])


def test_silence_after_a_record_is_replayed_every_2_s() -> None:
    relay = started(Relay(0.0), 1, now=10.0)
    assert relay.next_deadline() == 12.0
    assert relay.tick(12.0) == [Replay(1)]
    relay.replay_done(12.0)
    assert relay.next_deadline() == 14.0
    assert relay.live_tok(tok(1), 13.0) == [Tokens(2, [Delta("x")])]
    assert relay.next_deadline() == 15.0


def test_a_live_lease_shows_that_live_records_arrive() -> None:
    relay = Relay(0.0)
    relay.live_ctl(LEASE, 0.01)
    assert relay.next_deadline() == pytest.approx(2.01)


def test_a_failed_replay_is_tried_again() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.missed() == [Replay(1)]
    assert relay.replay_failed(5.0) == []
    assert relay.next_deadline() == pytest.approx(5.05)
    assert relay.tick(5.05) == [Replay(1)]


def test_a_reconnect_during_a_replay_makes_another_one() -> None:
    relay = Relay(0.0)
    assert relay.missed() == [Replay(1)]
    assert relay.missed() == []
    assert relay.replay_done(0.1) == [Replay(1)]
    assert relay.replay_done(0.2) == []


def test_the_tail_of_an_end_comes_before_it() -> None:
    relay = started(Relay(0.0), 1)
    end = End(status="ok", n=3, tail=Tail(1, [1, 2], [Delta("b"), Delta("c")]))
    assert relay.live_ctl(end, 0.0) == [Tokens(3, [Delta("b"), Delta("c")]), Ended(end, 3)]


def test_an_own_end_past_what_is_known_waits_for_the_log() -> None:
    relay = started(Relay(0.0), 1)
    end = End(status="ok", n=3, tail=Tail(2, [2], [Delta("c")]))
    assert relay.live_ctl(end, 0.0) == [Replay(1)]
    relay.stored(Entry(11, tok(0)))
    assert relay.stored(Entry(12, tok(1, "b"))) == [Tokens(2, [Delta("b")])]
    assert relay.stored(Entry(13, end)) == [Tokens(3, [Delta("c")]), Ended(end, 3)]
    assert relay.replay_done(0.1) == []
    assert relay.next_deadline() is None


def test_someone_elses_end_is_read_from_the_log_before_it_closes() -> None:
    relay = started(Relay(0.0), 1)
    cancelled = End(status="cancelled", reason="cancelled")
    assert relay.live_ctl(cancelled, 0.0) == [Replay(1)]
    relay.stored(Entry(11, tok(0)))
    assert relay.replay_done(0.1) == [], "a replica that has not heard of END yet"
    assert relay.tick(0.16) == [Replay(12)]
    assert relay.stored(Entry(12, tok(1, "b"))) == [Tokens(2, [Delta("b")])]
    assert relay.stored(Entry(13, cancelled)) == [Ended(cancelled, 2)]


def test_a_new_lease_is_read_from_the_log() -> None:
    relay = started(Relay(0.0), 2)
    assert relay.live_tok(tok(2, "c", lease=20), 1.0) == [Replay(1)]
    relay.stored(Entry(11, tok(0)))
    relay.stored(Entry(12, tok(1)))
    assert relay.stored(Entry(21, tok(2, "c", lease=20))) == [Tokens(3, [Delta("c")])]
    relay.replay_done(1.1)
    assert relay.live_tok(tok(3, "d", lease=20), 1.2) == [Tokens(4, [Delta("d")])]


def test_a_lost_log_breaks_the_stream() -> None:
    relay = started(Relay(0.0), 5)
    assert relay.live_tok(tok(0, "other", lease=20), 1.0) == [Replay(1)]
    outputs = relay.stored(Entry(21, tok(0, "other", lease=20)))
    assert isinstance(outputs[0], Broken)
    assert relay.over


def test_a_lost_log_is_not_hidden_by_an_end_of_the_same_length() -> None:
    relay = started(Relay(0.0), 3)
    relay.live_tok(tok(0, "other", lease=20, count=3), 1.0)
    assert relay.live_ctl(OK, 1.1) == []
    assert isinstance(relay.stored(Entry(21, tok(0, "other", lease=20, count=3)))[0], Broken)


def test_an_end_under_an_unseen_lease_does_not_prove_that_the_log_was_not_lost() -> None:
    relay = started(Relay(0.0), 1)
    # Lost after token 0 and begun again by another attempt; of that only END comes live.
    end = End(status="ok", lease=20, n=2, tail=Tail(1, [9], [Delta("other")]))
    assert relay.live_ctl(end, 1.0) == [Replay(1)]
    assert isinstance(relay.stored(Entry(21, tok(0, "another", lease=20)))[0], Broken)


def test_an_end_under_the_lease_of_the_text_proves_itself() -> None:
    relay = started(Relay(0.0), 3)
    end = End(status="ok", lease=10, n=3)
    assert relay.live_ctl(end, 1.0) == [Ended(end, 3)]


def test_an_end_under_any_lease_proves_itself_where_nothing_was_shown() -> None:
    relay = Relay(0.0)
    end = End(status="ok", lease=20, n=1, tail=Tail(0, [0], [Delta("x")]))
    assert relay.live_ctl(end, 1.0) == [Tokens(1, [Delta("x")]), Ended(end, 1)]


def test_an_end_shorter_than_what_was_sent_breaks_the_stream() -> None:
    relay = started(Relay(0.0), 4)
    assert isinstance(relay.live_ctl(OK, 0.0)[0], Broken)


def test_a_hole_in_the_log_breaks_the_stream() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.missed() == [Replay(1)]
    assert isinstance(relay.stored(Entry(15, tok(3)))[0], Broken)
    assert relay.replay_done(0.1) == []


def test_an_unreadable_record_of_the_log_breaks_the_stream() -> None:
    relay = started(Relay(0.0), 1)
    assert relay.missed() == [Replay(1)]
    assert isinstance(relay.unreadable()[0], Broken)
    assert relay.over


def test_a_slow_client_gets_the_rest_from_the_log() -> None:
    relay = started(Relay(0.0), 1)
    relay.pause()
    assert relay.live_tok(tok(1), 0.1) == []
    assert relay.live_ctl(End(status="ok", n=2), 0.2) == []
    assert relay.next_deadline() is None
    assert relay.resume() == [Replay(1)]
    relay.stored(Entry(11, tok(0)))
    assert relay.stored(Entry(12, tok(1))) == [Tokens(2, [Delta("x")])]
    relay.pause()
    assert relay.stored(Entry(13, End(status="ok", n=2))) == [], "the client is slow again"
    assert relay.replay_done(0.3) == []
    assert relay.resume() == [Replay(13)]
    assert relay.stored(Entry(13, End(status="ok", n=2))) == [Ended(End(status="ok", n=2), 2)]


def test_a_pause_without_news_needs_no_replay() -> None:
    relay = started(Relay(0.0), 1)
    relay.pause()
    assert relay.resume() == []
    assert relay.next_deadline() is not None


def test_an_answer_in_one_piece_takes_the_text_from_end() -> None:
    end = End(status="ok", n=5, text=["hello"])
    assert Relay(0.0, whole=True).live_ctl(end, 0.1) == [Ended(end, 0)]
    assert Relay(0.0).live_ctl(end, 0.1) == [Replay(1)], "a stream needs its records"


@dataclass
class World:
    """A log that grows, a live path that loses and doubles, and a client that counts what it gets."""

    log: list[Entry]
    relay: Relay
    text: list[str] = field(default_factory=list)
    offset: int = 0
    ended: bool = False
    replay_from: int | None = None

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            assert not self.ended, "nothing follows END"
            match output:
                case Tokens():
                    assert output.offset > self.offset
                    self.offset = output.offset
                    self.text += [delta.text for delta in output.deltas]
                case Replay():
                    assert self.replay_from is None, "one replay at a time"
                    self.replay_from = output.start_seq
                case Ended():
                    self.ended = True
                case Broken():
                    raise AssertionError(output.message)
        self.relay.check()

    def live(self, entry: Entry, now: float) -> None:
        record = entry.record
        if isinstance(record, Tok):
            self.take(self.relay.live_tok(record, now))
        else:
            self.take(self.relay.live_ctl(record, now))

    def replay(self, stored: int, reach: int, now: float, *, fails: bool) -> None:
        """A replica that knows only the first `reach` of the `stored` entries answers."""
        start, self.replay_from = self.replay_from, None
        assert start is not None
        if fails:
            self.take(self.relay.replay_failed(now))
            return
        for entry in self.log[: min(stored, reach)]:
            if entry.seq >= start:
                self.take(self.relay.stored(entry))
        self.take(self.relay.replay_done(now))


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A log as the protocol allows it: attempts that each continue where the log ends, then END."""
    entries: list[Entry] = []
    seq, offset = 100, 0
    for attempt in range(draw(st.integers(1, 3))):
        seq += draw(st.integers(1, 3))
        lease = seq
        entries.append(Entry(seq, Lease(nonce=str(attempt), worker="w", attempt=attempt, cause="first")))
        for size in draw(st.lists(st.integers(1, 3), max_size=5)):
            seq += draw(st.integers(1, 3))
            deltas = [Delta(f"<{offset + i}>") for i in range(draw(st.integers(0, size)))]
            entries.append(Entry(seq, Tok(lease, offset, list(range(size)), deltas)))
            offset += size
    end: CtlRecord = End(status="cancelled", reason="cancelled")
    if draw(st.booleans()):
        tail = Tail(offset, [1, 2], [Delta("<tail>")]) if draw(st.booleans()) else None
        end = End(status="ok", n=offset + (2 if tail else 0), tail=tail)
    entries.append(Entry(seq + 1, end))
    return entries


@settings(max_examples=500)
@given(logs(), st.data())
def test_any_loss_and_repetition_gives_the_text_of_the_log_once_and_in_order(
    log: list[Entry], data: st.DataObject
) -> None:
    world = World(log, Relay(0.0))
    now, stored, paused = 0.0, 0, False
    for _ in range(data.draw(st.integers(0, 60), label="steps")):
        now += data.draw(st.sampled_from([0.0, 0.01, 0.3, 2.5]), label="time passes")
        step = data.draw(
            st.sampled_from(
                ["append", "lose", "repeat", "replay", "fail", "tick", "missed", "pause", "resume"]
            )
        )
        if step == "append" and stored < len(log):
            world.live(log[stored], now)
            stored += 1
        elif step == "lose":
            stored = min(stored + 1, len(log))
        elif step == "repeat" and stored:
            world.live(log[data.draw(st.integers(0, stored - 1))], now)
        elif step in ("replay", "fail") and world.replay_from is not None:
            world.replay(stored, data.draw(st.integers(0, stored)), now, fails=step == "fail")
        elif step == "tick":
            world.take(world.relay.tick(now))
        elif step == "missed":
            world.take(world.relay.missed())
        elif step == "pause":
            paused = True
            world.relay.pause()
        elif step == "resume":
            paused = False
            world.take(world.relay.resume())
        assert "".join(world.text) == "".join(fold(log).texts)[: len("".join(world.text))]
    # Everything is in the log now and every replica knows it: the rest must come by the deadlines alone.
    if paused:
        world.take(world.relay.resume())
    for _ in range(10):
        if world.ended:
            break
        if world.replay_from is None:
            deadline = world.relay.next_deadline()
            assert deadline is not None, "it would wait for ever"
            now = max(now, deadline)
            world.take(world.relay.tick(now))
        world.replay(len(log), len(log), now, fails=False)
    assert world.ended
    assert "".join(world.text) == "".join(fold(log).texts)
