"""Systems whose processes can be hit one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType

import pytest

from chaos.real.history import Line
from chaos.real.members import Installation
from chaos.real.system import Deployment, Shape

Deploy = Callable[..., Awaitable[tuple[Deployment, list[Line]]]]


@pytest.fixture
async def deploy(tmp_path: Path) -> AsyncIterator[Deploy]:
    """Starts a system of that shape; with it comes its history, a list that grows. It is stopped at the end."""
    async with AsyncExitStack() as stack:

        async def started(
            shape: Shape, installed: Mapping[str, Installation] = MappingProxyType({})
        ) -> tuple[Deployment, list[Line]]:
            history: list[Line] = []
            system = Deployment(shape, tmp_path, history.append, installed=installed)
            await system.start()
            stack.push_async_callback(system.stop)
            return system, history

        yield started
