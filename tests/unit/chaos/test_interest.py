"""Subjects and patterns: the fast look-up finds what a plain reading of the rules finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chaos.broker.interest import Interest, is_pattern, matcher, overlap

TOKENS = st.sampled_from([b"a", b"b", b"a*", b"*", b">", b""])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(b".".join)
PATTERNS = SUBJECTS.filter(is_pattern)


def covers(pattern: bytes, subject: bytes) -> bool:
    """The rules of NATS, token by token."""
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    if b"" in tokens:
        return False
    for at, token in enumerate(wanted):
        if token == b">":
            return len(tokens) > at
        if at >= len(tokens) or token not in (b"*", tokens[at]):
            return False
    return len(tokens) == len(wanted)


@given(st.lists(PATTERNS, max_size=8), SUBJECTS)
def test_interest_finds_exactly_who_wants_a_subject(patterns: list[bytes], subject: bytes) -> None:
    interest: Interest[object] = Interest()
    items = [(pattern, object()) for pattern in patterns]
    for pattern, item in items:
        interest.add(pattern, item)
    assert set(interest.match(subject)) == {item for pattern, item in items if covers(pattern, subject)}
    for pattern, item in items:
        interest.remove(pattern, item)
    assert interest.match(subject) == ()
    assert [interest._exact, interest._under, interest._others] == [{}, {}, {}], "nothing is left behind"


@given(PATTERNS, SUBJECTS.filter(lambda subject: b"" not in subject.split(b".")))
def test_a_matcher_says_what_its_pattern_covers(pattern: bytes, subject: bytes) -> None:
    assert matcher(pattern)(subject) == covers(pattern, subject)


@given(PATTERNS, PATTERNS, SUBJECTS)
def test_patterns_that_share_a_subject_overlap(one: bytes, other: bytes, subject: bytes) -> None:
    assert overlap(one, other) == overlap(other, one)
    if covers(one, subject) and covers(other, subject):
        assert overlap(one, other)
