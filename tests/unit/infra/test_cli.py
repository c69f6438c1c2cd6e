"""Options of the command line: every setting is one, grouped by topic, and some may be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.setting_topics import by_topic
from infra.settings import Settings

run = CliRunner()


@pytest.fixture(autouse=True)
def _clean_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment and no file of settings; and a terminal that is wide enough for every line."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PENSTOCK_{name.upper()}", raising=False)
    monkeypatch.setenv("COLUMNS", "300")


def shown(name: str, *options: str) -> str:
    """The line of one setting that a command with these options prints."""
    result = run.invoke(app, ["config", "show", *options])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.split()[:1] == [name]]
    return " ".join(line.split()[1:])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--engine-arg", "a=1"], "a=1"),
        (["--engine-arg", "a=1", "--engine-arg", "b=2"], "a=1 b=2"),
        (["--engine-arg=a=x y", "--engine-arg=b={}"], "'a=x y' 'b={}'"),
    ],
)
def test_repeated_options_are_joined_as_a_shell_would_read_them(options: list[str], text: str) -> None:
    assert shown("engine_arg", *options) == f"{text} command line"


def test_an_option_that_is_not_used_leaves_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_LORA", "one=/a two=/b")
    assert shown("lora") == "one=/a two=/b environment"
    assert shown("engine_arg") == "default"


@pytest.mark.parametrize("command", ["up", "worker", "doctor"])
def test_help_lists_every_setting_under_its_topic(command: str) -> None:
    said = run.invoke(app, [command, "--help"]).output
    for topic, settings in by_topic().items():
        panel = said.partition(f"╭─ {topic} ─")[2].partition("╰")[0]
        assert [s.name for s in settings if f"--{s.name.replace('_', '-')}" not in panel] == []
