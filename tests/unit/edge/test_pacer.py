"""When a silent stream speaks."""

from __future__ import annotations

from edge.pacer import Pacer


def test_the_head_goes_out_after_head_wait() -> None:
    pacer = Pacer(100.0, head_wait_s=10, keep_alive_s=15)
    assert pacer.next_deadline() == 110.0
    assert pacer.due(109.9) is None
    assert pacer.due(110.0) == "head"


def test_silence_after_the_head_makes_keep_alives() -> None:
    pacer = Pacer(100.0, head_wait_s=10, keep_alive_s=15)
    pacer.wrote(101.0)
    assert pacer.next_deadline() == 116.0
    assert pacer.due(115.9) is None
    assert pacer.due(116.0) == "keep_alive"
    pacer.wrote(116.0)
    assert pacer.due(120.0) is None
    assert pacer.due(131.0) == "keep_alive"
