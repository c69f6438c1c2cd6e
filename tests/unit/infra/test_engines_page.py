"""The tables of docs/engines.md are the ones the code prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.setting_topics import settings_table

PAGE = Path(__file__).parents[3] / "docs" / "engines.md"


@pytest.mark.parametrize("topic", ["vLLM", "llama.cpp", "Upstream", "Simulator"])
def test_the_table_is_current(topic: str) -> None:
    table = PAGE.read_text().partition(f"<!-- settings {topic} -->\n")[2].partition("<!-- /settings -->")[0]
    printed = f"python -c 'from infra.setting_topics import settings_table; print(settings_table({topic!r}))'"
    assert table == settings_table(topic), f"put in what this prints: {printed}"
