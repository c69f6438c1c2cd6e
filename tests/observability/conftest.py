"""These tests need Prometheus's own programs: `apt-get install prometheus`. Without them they fail, and say so."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of `promtool`."""
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """The path of `prometheus`."""
    return _program("prometheus")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: apt-get install prometheus", pytrace=False)
    return path
