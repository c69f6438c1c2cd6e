"""infra/deploy/compose.yaml as Compose reads it: merged, and with its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "infra" / "deploy"
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\}")


def variables() -> dict[str, str]:
    """Every variable of the file with its default."""
    return {found["name"]: found["default"] for found in VARIABLE.finditer(_text())}


def example_variables() -> dict[str, str]:
    """Those of .env.example."""
    lines = (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def services(env: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The services, with `env` as the variables."""
    given = env or {}

    def value(found: re.Match[str]) -> str:
        return given.get(found["name"]) or found["default"]

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: filled(child) for name, child in node.items()}
        if isinstance(node, list):
            return [filled(child) for child in node]
        return VARIABLE.sub(value, node) if isinstance(node, str) else node

    # As Compose does it: first the YAML, then the variables, so that an empty one is an empty text.
    found: dict[str, dict[str, Any]] = filled(yaml.safe_load(_text())["services"])
    return found


def is_ours(service: Mapping[str, Any]) -> bool:
    """Whether it runs one of our roles."""
    return service.get("build", {}).get("target") in ("edge", "scheduler", "worker")


def settings_of(service: Mapping[str, Any]) -> dict[str, str]:
    """The settings it is given, by the variables' names."""
    return {
        name: str(value) for name, value in service["environment"].items() if name.startswith("PENSTOCK_")
    }


def seconds(duration: str) -> int:
    """`45s` and `30m` in seconds."""
    number, unit = int(duration[:-1]), duration[-1]
    return number * {"s": 1, "m": 60}[unit]


def _text() -> str:
    return (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
