"""The README's table of settings is the one the code prints."""

from __future__ import annotations

from pathlib import Path

from infra.settings import settings_table

README = Path(__file__).parents[3] / "README.md"


def test_the_table_is_current() -> None:
    table = README.read_text().partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    assert table == settings_table().strip()
