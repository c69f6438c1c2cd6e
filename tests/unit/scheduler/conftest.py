"""The fixture of the core's tests."""

from __future__ import annotations

import pytest

from tests.unit.scheduler.world import World


@pytest.fixture
def world() -> World:
    """A leading core that knows the model `m` and no worker."""
    made = World()
    made.lead("m")
    return made
