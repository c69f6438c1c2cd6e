"""The tiny model and whole systems that run it. Where vLLM is not installed, nothing of this folder is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.system import System
from bench.vllm_server import START_TIMEOUT_S, VllmServer, penstock_flags

KILL_WORKERS = 3

collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]

# Small, quiet, without the network: several engines share a machine.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Pair(NamedTuple):
    """A system and vLLM's own server, both with the same model and flags."""

    system: System
    reference: VllmServer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    from tests.vllm.tiny_model import build  # needs what vLLM brings along

    folder = tmp_path_factory.mktemp("model") / "tiny"
    build(folder)
    return folder


@pytest.fixture(scope="session")
def plain_pair(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """With one worker, without a reasoning parser."""
    with _pair(tiny_model, tmp_path_factory.mktemp("plain"), workers=1, reasoning=False) as pair:
        yield pair


@pytest.fixture(scope="session")
def reasoning_pair(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """With a reasoning parser, and workers enough to kill one after the other."""
    with _pair(
        tiny_model, tmp_path_factory.mktemp("reasoning"), workers=KILL_WORKERS, reasoning=True
    ) as pair:
        yield pair


@contextmanager
def _pair(model: Path, store: Path, *, workers: int, reasoning: bool) -> Iterator[Pair]:
    reference = VllmServer(model, store / "vllm.log", reasoning=reasoning)
    try:
        flags = penstock_flags(model, reasoning=reasoning)
        system = System(store / "penstock", START_TIMEOUT_S, workers=workers, **flags)
        try:
            reference.wait_ready()
            yield Pair(system, reference)
        finally:
            code = system.stop()
        assert code == 0, "an ordered drain ends with 0"
    finally:
        reference.stop()
