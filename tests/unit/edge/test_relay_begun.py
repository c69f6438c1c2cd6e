"""What a relay tells besides the text: where a tail stands, and whether an attempt was seen."""

from __future__ import annotations

from edge.relay import Ended, Relay, Tokens
from schemas.log import Entry
from schemas.output import Delta, End, Lease, Tail, Tok

LEASE = Lease(nonce="a", worker="w1", attempt=1, cause="first")


def read(tokens: int) -> Relay:
    relay = Relay(0.0)
    for off in range(tokens):
        relay.live_tok(Tok(10, off, [off], [Delta("x")]), 0.0)
    return relay


def test_a_tail_without_tokens_stands_behind_the_record_before_it() -> None:
    relay = read(2)
    end = End(status="ok", n=2, tail=Tail(2, [], [Delta("held back")]))
    assert relay.live_ctl(end, 1.0) == [Tokens(2, [Delta("held back")], first=1), Ended(end, 2)]


def test_an_attempt_shows_itself_by_any_record_but_end() -> None:
    relay = Relay(0.0)
    assert not relay.begun
    relay.live_ctl(LEASE, 0.1)
    assert relay.begun
    replaying = Relay(0.0)
    replaying.missed()
    replaying.stored(Entry(10, LEASE))
    assert replaying.begun
    assert read(1).begun
    ended = Relay(0.0)
    ended.live_ctl(End(status="ok", n=0), 0.1)
    assert not ended.begun
