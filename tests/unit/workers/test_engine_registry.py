"""Engines by their names."""

from __future__ import annotations

import sys

import pytest

from infra.settings import SettingsError, load_settings
from workers.engines.registry import make_engine


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(SettingsError, match="simulator"):
        make_engine(load_settings({"engine": "steam"}))


def test_llamacpp_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.delitem(sys.modules, "workers.engines.llamacpp", raising=False)
    with pytest.raises(SettingsError, match="penstock doctor"):
        make_engine(load_settings({"engine": "llamacpp", "model": "x.gguf"}))
