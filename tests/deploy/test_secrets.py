"""What an operator puts beside the files of infra/deploy stays there: it is in no commit, no wheel and no image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from tests.deploy.compose_file import DEPLOY

ROOT = DEPLOY.parents[1]
SECRET = [
    "infra/deploy/.env",
    "infra/deploy/settings.env",
    "infra/deploy/secure/edge/edge.nk",
    "infra/deploy/k8s/components/keys/keys.json",
    "infra/deploy/k8s/components/secure/keys/broker/server-key.pem",
]


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_it_is_in_nothing_that_is_shipped(
    builder: type[WheelBuilder] | type[SdistBuilder], tmp_path: Path
) -> None:
    """.gitignore says so, to hatchling too."""
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(DEPLOY, tmp_path / "infra" / "deploy", ignore=shutil.ignore_patterns("secure", "keys"))
    for path in SECRET:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("secret")
    shipped = {file.relative_path for file in builder(str(tmp_path)).recurse_included_files()}
    assert "infra/deploy/.env.example" in shipped
    assert not shipped & set(SECRET)


@pytest.mark.parametrize("path", SECRET)
def test_docker_does_not_get_it(path: str) -> None:
    """Images are made of what this file lets through, and the last line that fits decides."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    fitting = [line for line in lines if path.startswith(line.lstrip("!"))]
    assert fitting
    assert not fitting[-1].startswith("!")
