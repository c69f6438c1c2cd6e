"""compose.yaml against the Compose specification's schema, our settings, our images and its own variables."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.access.addresses import client_of, networks_of
from infra.broker import reserved_bytes
from infra.setting_types import GIB
from infra.settings import load_settings
from tests.deploy.compose_file import (
    DEPLOY,
    example_variables,
    is_ours,
    seconds,
    services,
    settings_of,
    variables,
)

PROFILES = {"sim", "vllm", "llamacpp", "cluster", "obs", "obs-gpu", "ui"}
BROKERS = ["broker", "broker-2", "broker-3"]
ROLES = sorted(name for name, service in services().items() if is_ours(service))

MARGIN_S = 10
"""Between the end of a drain and the kill: the exit itself, and a machine that is busy."""


def test_the_specification_accepts_it() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run(
        [*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_variable_is_explained_with_its_default() -> None:
    example = example_variables()
    assert example.pop("COMPOSE_PROFILES") in PROFILES
    defaults = variables()
    # The simulator takes any name, the others need one.
    assert defaults.pop("PENSTOCK_MODEL") in ("", "river")
    assert example.pop("PENSTOCK_MODEL") == ""
    assert example == defaults


def test_a_variable_has_one_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    pairs = set(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
    doubled = {name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1}
    assert doubled == {"PENSTOCK_MODEL"}
    assert not re.findall(r"\$\{[A-Z_]+[^A-Z_:]", text), "each one has a default"


def test_there_is_every_profile() -> None:
    assert {profile for one in services().values() for profile in one.get("profiles", [])} == PROFILES


@pytest.mark.parametrize("name", ROLES)
def test_its_settings_are_ours(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in settings_of(services()[name]).items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    unknown = [
        variable
        for variable in settings_of(services()[name])
        if variable.removeprefix("PENSTOCK_").lower() not in type(settings).model_fields
    ]
    assert not unknown


def test_edges_believe_the_balancer_and_no_client() -> None:
    """A client in a network whose X-Forwarded-For is believed could name any address as its own."""
    trusted = networks_of(settings_of(services()["edge"])["PENSTOCK_TRUSTED_PROXIES"])
    assert trusted == networks_of(variables()["INSIDE_SUBNET"])
    balancer = str(trusted[0][2])
    for client in ("192.168.1.50", "10.0.0.7", "172.17.0.1"):
        assert client_of(balancer, [f"203.0.113.9, {client}"], trusted) == client


@pytest.mark.parametrize("name", ROLES)
def test_it_is_killed_later_than_it_drains(name: str) -> None:
    service = services()[name]
    drain_s = float(settings_of(service)["PENSTOCK_DRAIN_TIMEOUT_S"])
    assert seconds(service["stop_grace_period"]) >= drain_s + MARGIN_S
    assert seconds(services()["balancer"]["stop_grace_period"]) >= drain_s + MARGIN_S


@pytest.mark.parametrize("name", [*ROLES, *BROKERS])
def test_it_may_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "memory" in service["deploy"]["resources"]["limits"]


def test_images_are_built_by_stages_that_exist() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    arguments = set(re.findall(r"^ARG ([A-Z_]+)", dockerfile, re.MULTILINE))
    for service in services().values():
        if "build" in service:
            assert service["build"]["target"] in stages
            assert set(service["build"]["args"]) <= arguments
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_what_is_mounted_is_there() -> None:
    for name, service in services().items():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            # The folder of models is the user's.
            if source.startswith(".") and source != "./models":
                assert (DEPLOY / source).exists(), f"{name}: {mount}"


def test_a_cluster_is_three_that_know_each_other() -> None:
    found = services({"PENSTOCK_BROKER_PROFILE": "cluster"})
    assert [found[name]["environment"]["BROKER_NAME"] for name in BROKERS] == BROKERS
    for name in BROKERS:
        routes = found[name]["environment"]["BROKER_ROUTES"]
        assert re.findall(r"nats://([a-z0-9-]+):6222", routes) == BROKERS
        assert found[name]["command"] == ["--config", "/etc/penstock/cluster.conf"]
    assert len({str(found[name]["volumes"]) for name in BROKERS}) == 3


@pytest.mark.parametrize("profile", ["embedded", "durable", "cluster"])
def test_a_broker_has_room_for_the_streams(profile: str) -> None:
    settings = load_settings({"broker_profile": profile})
    store = services()["broker"]["environment"]["BROKER_FILE_STORE"]
    assert int(store.removesuffix("GB")) * 10**9 >= reserved_bytes(settings)
    assert settings.output_bytes_max == 4 * GIB, "durable.conf has that much memory for it"


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="NOT CHECKED: haproxy is not installed here")
def test_the_balancer_reads_its_config() -> None:
    path = DEPLOY / "balancer" / "haproxy.cfg"
    environment = {"EDGES": "127.0.0.1:8000", "EDGES_MAX": "8"}
    checked = subprocess.run(
        [str(shutil.which("haproxy")), "-c", "-f", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
