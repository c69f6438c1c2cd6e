"""The seed of a request that brings none."""

from __future__ import annotations

from workers.engines.seeds import seed_of


def test_it_is_of_the_rid_alone() -> None:
    # SHA-256("abc") begins with ba7816bf.
    assert seed_of("abc") == 0xBA7816BF >> 1
    assert all(0 <= seed_of(str(number)) < 1 << 31 for number in range(100))
