"""Commands for people to type, found without touching what the process runs on."""

from __future__ import annotations

import sys

import pytest

from infra import commands


class Watch:
    """Notes which modules are looked up, and finds none."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, name: str, _path: object, _target: object = None) -> None:
        self.names.append(name)


def test_the_installer_is_told_without_looking_up_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """setuptools watches for that, and cannot be imported any more afterwards."""
    watch = Watch()
    monkeypatch.setattr(sys, "meta_path", [watch, *sys.meta_path])
    assert commands.install("penstock[vllm]").endswith("'penstock[vllm]'")
    assert "pip" not in watch.names
