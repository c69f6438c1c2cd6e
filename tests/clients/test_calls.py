"""Official and common clients, unchanged but for the address."""

from __future__ import annotations

import pytest

from bench.system import System
from tests.clients.running import ALL, results


@pytest.mark.parametrize("client", ALL)
def test_every_call_works(system: System, client: str) -> None:
    said = results(client, system.url)
    for call, error in said.items():
        print(f"{client}.{call}: {error or 'ok'}")
    assert len(said) >= 4
    assert not {call: error for call, error in said.items() if error is not None}
