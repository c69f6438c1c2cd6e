"""llama.cpp itself, on a model that is made here. `make test-llamacpp` installs what it needs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

NEEDED = ("xllamacpp", "gguf", "numpy")
MISSING = [name for name in NEEDED if find_spec(name) is None]
collect_ignore_glob = ["*.py"] if MISSING else []


def pytest_report_header() -> list[str]:
    """Says loudly what is left out."""
    return [f"tests/llamacpp IS LEFT OUT: no {', '.join(MISSING)}"] if MISSING else []


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's file."""
    from tests.llamacpp.tiny_gguf import build

    return build(tmp_path_factory.mktemp("model") / "tiny-llama.gguf")


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny model that makes vectors of texts."""
    from tests.llamacpp.tiny_gguf import build

    return build(tmp_path_factory.mktemp("model") / "tiny-embedder.gguf", embeds=True)
