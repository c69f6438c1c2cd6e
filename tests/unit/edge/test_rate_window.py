"""A sliding window's arithmetic, in simulated time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.rates.window import Window, duration


@st.composite
def windows(draw: st.DrawFn) -> Window:
    window_s = draw(st.integers(1, 3600))
    amount = draw(st.integers(1, 10_000))
    counts = st.integers(0, 20_000)
    left_s = draw(st.floats(0.001, 1.0)) * window_s
    return Window(amount, window_s, draw(counts), draw(counts), left_s)


def later(window: Window, seconds: float) -> Window:
    """The same counts, seen later."""
    previous, current, left_s = window.previous, window.current, window.left_s - seconds
    while left_s <= 0:
        previous, current, left_s = current, 0, left_s + window.window_s
    return window._replace(previous=previous, current=current, left_s=left_s)


@pytest.mark.parametrize(
    ("window", "remaining", "reset_s"),
    [
        (Window(10, 60, 0, 0, 30.0), 10, 0.0),
        (Window(10, 60, 0, 4, 30.0), 6, 90.0),
        (Window(10, 60, 10, 0, 30.0), 5, 30.0),
        (Window(10, 60, 10, 5, 30.0), 0, 90.0),
        (Window(10, 60, 0, 25, 30.0), 0, 90.0),
    ],
)
def test_what_is_left_and_when_all_of_it_is_back(window: Window, remaining: int, reset_s: float) -> None:
    assert window.remaining == remaining
    assert window.reset_s == pytest.approx(reset_s)


@given(windows())
def test_the_rest_is_never_negative_and_never_above_the_limit(window: Window) -> None:
    assert 0 <= window.remaining <= window.amount


@given(windows())
def test_after_the_reset_all_of_it_is_there(window: Window) -> None:
    assert later(window, window.reset_s + 1e-6).remaining == window.amount


@given(windows(), st.integers(1, 12_000))
def test_who_waits_as_long_as_told_gets_in_and_who_comes_earlier_does_not(window: Window, cost: int) -> None:
    wait_s = window.wait_s(cost)
    if wait_s is None:
        assert cost > window.amount
        return
    assert 0 <= wait_s <= 2 * window.window_s
    assert later(window, wait_s + 1e-3 * window.window_s).remaining >= cost
    if wait_s > 0.01 * window.window_s:
        assert later(window, wait_s - 0.005 * window.window_s).remaining < cost


@given(st.data())
def test_no_fixed_window_takes_more_than_the_limit(data: st.DataObject) -> None:
    """Whoever hits whenever `remaining` allows it."""
    amount, window_s = data.draw(st.integers(1, 50)), 10
    counts: dict[int, int] = {}
    now = 0.0
    for _ in range(data.draw(st.integers(1, 200))):
        now += data.draw(st.floats(0, 3))
        number = int(now // window_s)
        window = Window(
            amount, window_s, counts.get(number - 1, 0), counts.get(number, 0), window_s - now % window_s
        )
        if window.remaining:
            counts[number] = counts.get(number, 0) + 1
    assert max(counts.values(), default=0) <= amount


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (-1, "0ms"),
        (0.0171, "18ms"),
        (1.2, "1.2s"),
        (59.9994, "1m0s"),
        (360, "6m0s"),
        (61.2, "1m2s"),
        (3603, "1h0m3s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
