"""The broker's config files: nats-server takes them, and they say what `penstock broker` says of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from infra.broker import broker_config, find_nats_server
from infra.settings import load_settings
from tests.deploy.compose_file import DEPLOY, services

CONFIGS = DEPLOY / "broker"


@pytest.mark.parametrize("profile", ["embedded", "durable", "cluster"])
def test_nats_server_takes_it(profile: str) -> None:
    environment = {name: str(value) for name, value in services()["broker"]["environment"].items()}
    checked = subprocess.run(
        [find_nats_server(), "-t", "--config", str(CONFIGS / f"{profile}.conf")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("profile", ["embedded", "durable"])
def test_it_says_the_same_as_ours(profile: str, tmp_path: Path) -> None:
    ours = json.loads(broker_config(load_settings({"broker_profile": profile}), 4222, 8222, tmp_path))
    jetstream = ours.pop("jetstream")
    node = _values(CONFIGS / "node.conf")
    differing = {"server_name", "host", "http"}
    assert {name: node[name] for name in ours if name not in differing} == {
        name: str(value) for name, value in ours.items() if name not in differing
    }
    file = _values(CONFIGS / f"{profile}.conf")
    assert int(file["max_memory_store"].removesuffix("MiB")) << 20 == jetstream["max_memory_store"]
    assert file.get("sync_interval") == jetstream.get("sync_interval")


def _values(path: Path) -> dict[str, str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition(": ") for line in lines if ": " in line and not line.startswith("#"))
    return {name: value.strip('"') for name, _, value in pairs}
