"""Brokers that let in only whom they know, in containers: what `init` writes fits into what mounts it."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from infra.access import ROLE_IN_PATH
from infra.broker import find_nats_server
from infra.settings import Settings
from tests.deploy.compose_file import DEPLOY, VARIABLE, is_ours, services
from tests.deploy.manifests import HAS_KUBECTL, OVERLAYS, WORKLOADS, container_of, labels_of, pod_of, rendered

ETC, ACCESS = "/etc/penstock", "/etc/penstock/access"
ROLES = ("scheduler", "edge", "worker")
NAMES = ["broker", *(f"broker-{number}.broker" for number in range(3))]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `penstock broker init --secure` writes."""
    directory = tmp_path_factory.mktemp("secure") / "keys"
    hosts = [word for name in NAMES for word in ("--host", name)]
    command = [sys.executable, "-m", "infra.cli", "broker", "init", str(directory), "--secure", *hosts]
    subprocess.run(command, check=True, capture_output=True, cwd=DEPLOY.parents[1])
    return directory


@pytest.mark.parametrize("profile", ["embedded", "durable", "cluster"])
def test_nats_server_takes_the_config_with_the_keys(profile: str, keys: Path, tmp_path: Path) -> None:
    environment = {name: str(value) for name, value in services()["broker"]["environment"].items()}
    shutil.copytree(DEPLOY / "broker", tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*.conf"):
        path.write_text(path.read_text(encoding="utf-8").replace(f"{ETC}/", f"{tmp_path}/"), encoding="utf-8")

    def checked() -> subprocess.CompletedProcess[str]:
        command = [find_nats_server(), "-t", "--config", str(tmp_path / "secure" / f"{profile}.conf")]
        env = {**os.environ, **environment}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert checked().returncode != 0, "without keys it does not start"
    shutil.copytree(keys / "broker", tmp_path / "access")
    said = checked()
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_specification_accepts_the_compose_file() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run(
        [*command, str(DEPLOY / "compose.secure.yaml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_in_compose_every_service_that_connects_shows_its_own_key(keys: Path) -> None:
    found = yaml.safe_load((DEPLOY / "compose.secure.yaml").read_text(encoding="utf-8"))["services"]
    brokers = [name for name in services() if name.startswith("broker")]
    ours = {name: one["build"]["target"] for name, one in services().items() if is_ours(one)}
    assert set(found) == {*brokers, *ours}
    for name, role in ours.items():
        assert found[name]["volumes"] == [f"./secure/{role}:{ACCESS}:ro"]
        for variable, value in found[name]["environment"].items():
            assert variable.removeprefix("PENSTOCK_").lower() in Settings.model_fields
            assert value.startswith(f"{ACCESS}/")
            assert (keys / role / value.removeprefix(f"{ACCESS}/").replace(ROLE_IN_PATH, role)).is_file()
    for name in brokers:
        assert found[name]["volumes"] == [f"./secure/broker:{ACCESS}:ro"]
        option, path = found[name]["command"]
        assert option == "--config"
        for profile in ("embedded", "durable", "cluster"):
            file = VARIABLE.sub(profile, path).removeprefix(f"{ETC}/")
            assert (DEPLOY / "broker" / file).is_file()


@pytest.mark.skipif(not HAS_KUBECTL, reason="MANIFESTS NOT CHECKED: there is no kubectl here")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_in_kubernetes_every_pod_gets_its_own_key_and_no_other(
    overlay: str, keys: Path, tmp_path: Path
) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secure"))
    component = tmp_path / "deploy/k8s/components/secure"
    shutil.copytree(DEPLOY / "k8s/components/secure", component, ignore=shutil.ignore_patterns("keys"))
    shutil.copytree(keys, component / "keys")
    path = tmp_path / "deploy/k8s/overlays" / overlay / "kustomization.yaml"
    text = path.read_text(encoding="utf-8").replace("images:\n", "  - ../../components/secure\nimages:\n")
    path.write_text(text, encoding="utf-8")
    manifests = rendered(path.parent)
    for one in manifests.all:
        if one["apiVersion"] in ("v1", "apps/v1"):
            kubernetes_validate.validate(one, "1.32", strict=True)
    for workload in manifests.of(*WORKLOADS):
        role = labels_of(workload)["app.kubernetes.io/name"]
        (volume,) = [one for one in pod_of(workload)["volumes"] if "secret" in one]
        (mount,) = [one for one in container_of(workload)["volumeMounts"] if one["name"] == volume["name"]]
        assert (mount["mountPath"], mount["readOnly"]) == (ACCESS, True)
        data = manifests.named("Secret", volume["secret"]["secretName"])["data"]
        shown = {name: base64.b64decode(value) for name, value in data.items()}
        assert shown == {name: (keys / role / name).read_bytes() for name in shown}
        environment = manifests.environment(workload)
        if role == "broker":
            assert environment["BROKER_CONFIGS"] == f"{ETC}/secure"
            assert set(shown) == {"accounts.conf", "ca.pem", "server.pem", "server-key.pem"}
        else:
            wanted = {environment["PENSTOCK_NATS_NKEY_FILE"].replace(ROLE_IN_PATH, role)}
            assert wanted | {environment["PENSTOCK_NATS_CA_FILE"]} == {f"{ACCESS}/{name}" for name in shown}
    for scaled in manifests.of("ScaledObject"):
        assert {one["metadata"]["account"] for one in scaled["spec"]["triggers"]} == {"PENSTOCK"}
