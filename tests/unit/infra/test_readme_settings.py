"""The README's tables of settings are those the code prints."""

from __future__ import annotations

from pathlib import Path

from infra.setting_topics import settings_tables

README = Path(__file__).parents[3] / "README.md"


def test_the_tables_are_current() -> None:
    table = README.read_text().partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    printed = "python -c 'from infra.setting_topics import settings_tables; print(settings_tables())'"
    assert table == settings_tables().strip(), f"put in what this prints: {printed}"
