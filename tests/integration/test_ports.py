"""Ports for servers that are about to start."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.system import REPOSITORY
from infra import ports
from infra.ports import CLAIMS_MAX, claim, free_port, is_free

ADDRESS = "127.0.0.1"


def test_a_free_port_is_named_once() -> None:
    """Whoever chooses several listens on them later."""
    named = [free_port() for _ in range(900)]
    assert len(set(named)) == len(named)


def test_a_server_may_listen_on_what_was_named(free_port: int) -> None:
    assert is_free(free_port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ADDRESS, free_port))
    for _ in range(2):  # and again, after a restart
        with socket.create_server((ADDRESS, free_port)):
            assert not is_free(free_port)
            socket.create_connection((ADDRESS, free_port)).close()


def test_where_somebody_listens_nothing_can_be_claimed() -> None:
    with socket.create_server((ADDRESS, 0)) as server:
        assert not claim(server.getsockname()[1])


@contextmanager
def named_elsewhere() -> Iterator[int]:
    """A port that another process has named, while it lives."""
    source = "import sys; from infra.ports import free_port; print(free_port(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        yield int(other.stdout.readline())
        other.stdin.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no claim is held")
def test_what_another_process_has_named_is_not_named_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with named_elsewhere() as taken:
        choices = iter([taken])
        by_chance = random.choice
        monkeypatch.setattr(random, "choice", lambda among: next(choices, None) or by_chance(among))
        assert free_port() != taken
        assert next(choices, None) is None, "it was the first choice"
    assert claim(taken), "its claim ended with it"


def test_claims_are_bounded() -> None:
    for _ in range(CLAIMS_MAX + 50):
        free_port()
    assert len(ports._claims) <= CLAIMS_MAX
