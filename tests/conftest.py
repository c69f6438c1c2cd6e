"""Fixtures that every tier may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from infra import broker as embedded
from infra import ports
from infra.settings import load_settings

# The same examples each time, and none that fails for the time it took: what is red, a change made red. To search
# beyond them: make test-unit ARGS=--hypothesis-profile=default
hypothesis.settings.load_profile("ci")


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    return ports.free_port()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Broker]:
    """A real embedded broker on free ports with a store of its own: `.url`, `.monitor_url`, `.pid`."""
    store_dir = tmp_path_factory.mktemp("broker")
    settings = load_settings({"store_dir": store_dir, "broker_port": 0, "broker_monitor_port": 0})
    with embedded.Broker(settings) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[embedded.Broker]:
    """Like `broker`, for one test alone: it may be stopped, killed or filled."""
    settings = load_settings({"store_dir": tmp_path, "broker_port": 0, "broker_monitor_port": 0})
    with embedded.Broker(settings) as running:
        yield running
