"""Whole systems, started once per module that needs them in one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.system import System

StartSystem = Callable[..., System]


@pytest.fixture(scope="module")
def start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartSystem]:
    """Starts a system with the given settings; all are stopped, in order and without an error, at the end."""
    started: list[System] = []

    def start(beside: Callable[[str], object] | None = None, **settings: object) -> System:
        store: Path = tmp_path_factory.mktemp("store")
        started.append(System(store, beside=beside, **settings))
        return started[-1]

    yield start
    codes = [system.stop() for system in started]
    assert codes == [0] * len(codes), "an ordered drain ends with 0"
