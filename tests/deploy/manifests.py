"""The Kubernetes manifests of one overlay, as `kubectl kustomize` makes them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.compose_file import DEPLOY

K8S = DEPLOY / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
WORKLOADS = ("Deployment", "StatefulSet")
HAS_KUBECTL = shutil.which("kubectl") is not None

Manifest = Mapping[str, Any]


class Manifests:
    """All that an overlay creates."""

    def __init__(self, documents: list[Manifest]) -> None:
        self.all = documents

    def of(self, *kinds: str) -> list[Manifest]:
        """Those of some kinds."""
        return [one for one in self.all if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Manifest:
        """The only one of this kind and name."""
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    def selected(self, selector: Mapping[str, Any]) -> list[Manifest]:
        """Workloads whose pods a label selector takes."""
        return [one for one in self.of(*WORKLOADS) if _takes(selector, labels_of(one))]

    def environment(self, workload: Manifest) -> dict[str, str]:
        """The variables of a workload's container, those of its config maps too."""
        container = container_of(workload)
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.named("ConfigMap", source["configMapRef"]["name"])["data"]
        return found | {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


def rendered(directory: Path) -> Manifests:
    """What `kubectl kustomize` makes of a folder. Fails with its words."""
    ran = subprocess.run(
        ["kubectl", "kustomize", str(directory)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return Manifests(list(yaml.safe_load_all(ran.stdout)))


@cache
def overlay(name: str) -> Manifests:
    """One of `OVERLAYS`."""
    return rendered(K8S / "overlays" / name)


def pod_of(workload: Manifest) -> Manifest:
    """The spec of its pods."""
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container_of(workload: Manifest) -> Manifest:
    """Its only container."""
    (container,) = pod_of(workload)["containers"]
    found: Manifest = container
    return found


def labels_of(workload: Manifest) -> Mapping[str, str]:
    """The labels of its pods."""
    labels: Mapping[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def references() -> Iterator[tuple[Path, Path]]:
    """Every file and folder that a kustomization names, with the folder that names it."""
    for path in sorted(K8S.rglob("kustomization.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = [*content.get("resources", []), *content.get("components", [])]
        names += [one["path"] for one in content.get("patches", []) if "path" in one]
        names += [env for one in content.get("configMapGenerator", []) for env in one.get("envs", [])]
        yield from ((path, path.parent / name) for name in names)


def _takes(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    listed = selector.get("matchExpressions", [])
    return all(labels.get(name) == value for name, value in wanted) and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"] for one in listed
    )
