"""The manifests: against Kubernetes' own schemas, against each other, and against our settings, ports and consumers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest

from infra.broker import reserved_bytes
from infra.settings import Settings, load_settings
from schemas.ids import model_key
from schemas.streams import REQUESTS, consumers_of
from tests.deploy.compose_file import DEPLOY
from tests.deploy.manifests import (
    HAS_KUBECTL,
    K8S,
    OVERLAYS,
    WORKLOADS,
    Manifest,
    Manifests,
    container_of,
    labels_of,
    overlay,
    pod_of,
    references,
    rendered,
)

CRDS = Path(__file__).parent / "crds"
VERSIONS = ["1.30", "1.32"]
MARGIN_S = 10

rendering = pytest.mark.skipif(not HAS_KUBECTL, reason="MANIFESTS NOT CHECKED: there is no kubectl here")


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return overlay(request.param)


def test_what_a_kustomization_names_is_there() -> None:
    named = list(references())
    assert len(named) > 20
    assert not [f"{path}: {target}" for path, target in named if not target.exists()]


@rendering
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(manifests: Manifests, version: str) -> None:
    own = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in CRDS.iterdir()}
    for one in manifests.all:
        if one["kind"] in own:
            jsonschema.validate(one, own[one["kind"]])
        else:
            kubernetes_validate.validate(one, version, strict=True)


@rendering
def test_selectors_find_something(manifests: Manifests) -> None:
    for workload in manifests.of(*WORKLOADS):
        assert workload in manifests.selected(workload["spec"]["selector"])
        for spread in pod_of(workload)["topologySpreadConstraints"]:
            assert manifests.selected(spread["labelSelector"]) == [workload]
    for budget in manifests.of("PodDisruptionBudget"):
        assert len(manifests.selected(budget["spec"]["selector"])) == 1
    budgets = [one["metadata"]["name"] for one in manifests.of("PodDisruptionBudget")]
    assert sorted(budgets) == sorted(one["metadata"]["name"] for one in manifests.of(*WORKLOADS))
    for service in manifests.of("Service"):
        assert len(manifests.selected({"matchLabels": service["spec"]["selector"]})) == 1


@rendering
def test_ports_are_those_of_the_containers(manifests: Manifests) -> None:
    for service in manifests.of("Service"):
        (workload,) = manifests.selected({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert port.get("targetPort", port["port"]) in {*_ports(workload), *_ports(workload).values()}
    for monitor in manifests.of("PodMonitor"):
        for workload in (found := manifests.selected(monitor["spec"]["selector"])):
            assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= set(_ports(workload))
        assert len(found) == 2, "schedulers and workers"
    for monitor in manifests.of("ServiceMonitor"):
        (service,) = [
            one
            for one in manifests.of("Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"].get("labels", {}).items()
        ]
        names = {port["name"] for port in service["spec"]["ports"]}
        assert {one["port"] for one in monitor["spec"]["endpoints"]} <= names


@rendering
def test_each_role_has_a_network_policy_for_its_ports(manifests: Manifests) -> None:
    allowed: dict[str, set[int]] = {}
    for policy in manifests.of("NetworkPolicy"):
        selected = manifests.selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", []):
            for workload in selected:
                ports = {one["port"] for one in rule["ports"]}
                allowed.setdefault(workload["metadata"]["name"], set()).update(ports)
    assert allowed == {
        one["metadata"]["name"]: set(_ports(one).values()) for one in manifests.of(*WORKLOADS)
    }, "what listens is reached, and nothing else is"
    reached = manifests.named("NetworkPolicy", "scheduler")["spec"]["egress"]
    assert [one["ports"] for one in reached] == [[{"port": 4222}]], (
        "a scheduler reads no other machine's monitoring"
    )
    everything = manifests.named("NetworkPolicy", "nothing")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@rendering
def test_containers_may_do_little(manifests: Manifests) -> None:
    for workload in manifests.of(*WORKLOADS):
        pod, container = pod_of(workload), container_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001, "the Dockerfile's"
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"startupProbe", "livenessProbe"} <= set(container)
        assert "memory" in container["resources"]["limits"]
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]


@rendering
def test_a_pod_is_killed_later_than_it_drains(manifests: Manifests) -> None:
    for workload in manifests.of("Deployment"):
        drain_s = float(manifests.environment(workload)["PENSTOCK_DRAIN_TIMEOUT_S"])
        before_s = 0.0
        if "lifecycle" in container_of(workload):
            sleep, seconds = container_of(workload)["lifecycle"]["preStop"]["exec"]["command"]
            assert sleep == "sleep"
            before_s = float(seconds)
        grace_s = pod_of(workload)["terminationGracePeriodSeconds"]
        assert grace_s >= before_s + drain_s + MARGIN_S, workload["metadata"]["name"]
    broker = manifests.named("StatefulSet", "broker")
    _, _, command = container_of(broker)["lifecycle"]["preStop"]["exec"]["command"]
    assert pod_of(broker)["terminationGracePeriodSeconds"] >= float(command.split()[-1]) + MARGIN_S


@rendering
def test_settings_are_ours(manifests: Manifests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for workload in manifests.of("Deployment"):
        environment = manifests.environment(workload)
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                assert name.removeprefix("PENSTOCK_").lower() in Settings.model_fields, name
                patched.setenv(name, value)
            settings = load_settings()
        role = labels_of(workload)["app.kubernetes.io/name"]
        shown = {
            "edge": settings.port,
            "scheduler": settings.scheduler_metrics_port,
            "worker": settings.worker_metrics_port,
        }
        assert list(_ports(workload).values()) == [shown[role]]


@rendering
def test_a_role_finds_every_broker(manifests: Manifests) -> None:
    broker = manifests.named("StatefulSet", "broker")
    (service,) = [one for one in manifests.of("Service") if one["metadata"]["name"] == "broker"]
    assert broker["spec"]["serviceName"] == service["metadata"]["name"]
    settings = manifests.environment(manifests.named("Deployment", "scheduler"))
    urls = [urlsplit(url) for url in settings["PENSTOCK_NATS_URL"].split(",")]
    pods = [f"broker-{number}.broker" for number in range(broker["spec"]["replicas"])]
    assert [url.hostname for url in urls] == (pods if len(pods) > 1 else ["broker"])
    assert {url.port for url in urls} == {_ports(broker)["client"]}
    profile = settings["PENSTOCK_BROKER_PROFILE"]
    assert container_of(broker)["args"] == ["--config", f"$(BROKER_CONFIGS)/{profile}.conf"]
    assert broker["spec"]["replicas"] == (3 if profile == "cluster" else 1)
    variables = manifests.environment(broker)
    assert variables["BROKER_CONFIGS"] == "/etc/penstock", "the Dockerfile's"
    if profile == "cluster":
        assert json.loads(variables["BROKER_ROUTES"]) == [f"nats://{pod}:6222" for pod in pods]
    assert int(variables["BROKER_FILE_STORE"].removesuffix("GB")) * 10**9 >= reserved_bytes(load_settings())


@rendering
def test_an_autoscaler_reads_our_consumers() -> None:
    manifests = overlay("vllm-gpu")
    scaled = manifests.of("ScaledObject")
    assert scaled
    for one in scaled:
        target = manifests.named("Deployment", one["spec"]["scaleTargetRef"]["name"])
        model = manifests.environment(target)["PENSTOCK_MODEL"]
        durables = consumers_of(model_key(model), ack_wait_s=10, queue_max=1)
        triggers: list[dict[str, Any]] = [trigger["metadata"] for trigger in one["spec"]["triggers"]]
        assert [trigger["consumer"] for trigger in triggers] == [durable.name for durable in durables]
        assert {trigger["stream"] for trigger in triggers} == {REQUESTS}
        assert one["spec"]["minReplicaCount"] >= 1
        broker = manifests.named("StatefulSet", "broker")
        host = f"{broker['spec']['serviceName']}.{broker['metadata']['namespace']}.svc.cluster.local"
        monitor = _ports(broker)["monitor"]
        assert {trigger["natsServerMonitoringEndpoint"] for trigger in triggers} == {f"{host}:{monitor}"}


@rendering
def test_a_key_file_becomes_a_secret_of_the_edges(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "k8s/components/keys/keys.json").write_text('{"keys": []}', encoding="utf-8")
    path = tmp_path / "k8s/overlays/sim/kustomization.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("components:\n", "components:\n  - ../../components/keys\n"),
        encoding="utf-8",
    )
    manifests = rendered(path.parent)
    edge = manifests.named("Deployment", "edge")
    (secret,) = manifests.of("Secret")
    (volume,) = [one for one in pod_of(edge)["volumes"] if "secret" in one]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    (mount,) = [one for one in container_of(edge)["volumeMounts"] if one["name"] == volume["name"]]
    file = manifests.environment(edge)["PENSTOCK_KEYS_FILE"]
    assert file == f"{mount['mountPath']}/{next(iter(secret['data']))}"
    for one in manifests.all:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)


@rendering
@pytest.mark.parametrize("name", ["cluster", "vllm-gpu"])
def test_grafana_gets_every_dashboard(name: str) -> None:
    dashboards = overlay(name).named("ConfigMap", "penstock-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = sorted((DEPLOY / "observability" / "grafana" / "dashboards").glob("*.json"))
    assert dashboards["data"] == {path.name: path.read_text(encoding="utf-8") for path in files}
    # What `kubectl apply` writes beside it, too, must fit into an annotation.
    assert len(json.dumps(dashboards)) < 256 << 10


def _ports(workload: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}
