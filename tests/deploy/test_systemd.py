"""The units: systemd's own check, and what they say against our settings, commands and exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.cli import app
from infra.notices import ALIVE_INTERVAL_S
from infra.settings import Settings, load_settings
from infra.supervisor import EXIT_CONFIG
from tests.deploy.compose_file import DEPLOY

UNITS = DEPLOY / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
PROGRAM = "/opt/penstock/bin/penstock"
MARGIN_S = 10
EXPOSURE_MAX = 25
"""Of 100, as `systemd-analyze security` counts; what it calls OK."""

analysing = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="UNITS NOT VERIFIED: there is no systemd-analyze here"
)


def values(name: str) -> dict[str, list[str]]:
    """Every value of every key of a unit."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def instance(name: str) -> str:
    """The name of a unit, or of a template's first instance."""
    return name.replace("@.", "@1.")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a folder, with a program that exists."""
    for path in UNITS.iterdir():
        text = path.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    return tmp_path


@analysing
@pytest.mark.parametrize("name", [*SERVICES, "penstock.target"])
def test_systemd_takes_it(name: str, installed: Path) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", instance(name)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr
    assert str(installed) not in verified.stderr, verified.stderr


@analysing
@pytest.mark.parametrize("name", SERVICES)
def test_it_may_do_little(name: str, installed: Path) -> None:
    threshold = f"--threshold={EXPOSURE_MAX}"
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, str(installed / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_it_runs_a_command_of_ours_and_waits_for_its_drain(name: str) -> None:
    unit = values(name)
    (command,) = unit["ExecStart"]
    program, _, role = command.partition(" ")
    assert program == PROGRAM
    commands = [one.callback.__name__ for one in app.registered_commands if one.callback]
    assert role in [*commands, *(group.name for group in app.registered_groups)]
    assert name.startswith(f"penstock-{role}")
    assert unit["Type"] == ["notify"]
    assert unit["KillMode"] == ["mixed"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]
    assert float(unit["TimeoutStopSec"][0]) >= load_settings().drain_timeout_s + MARGIN_S
    if role == "broker":
        assert "WatchdogSec" not in unit, "nats-server says nothing to systemd"
    else:
        assert float(unit["WatchdogSec"][0]) >= 10 * ALIVE_INTERVAL_S


@pytest.mark.parametrize("name", SERVICES)
def test_its_settings_are_ours(name: str) -> None:
    pairs = [word.partition("=") for line in values(name)["Environment"] for word in line.split()]
    ours = [variable for variable, _, _ in pairs if variable.startswith("PENSTOCK_")]
    assert ours
    assert not [one for one in ours if one.removeprefix("PENSTOCK_").lower() not in Settings.model_fields]


def test_the_target_wants_one_of_each() -> None:
    (wanted,) = values("penstock.target")["Wants"]
    templates = {name.partition("@")[0] + "@.service" if "@" in name else name for name in wanted.split()}
    assert sorted(templates) == SERVICES
    assert all(values(name)["PartOf"] == ["penstock.target"] for name in SERVICES)
