"""`penstock keys`: what is printed, and what is kept."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.keys import KEY_PREFIX, KeyFileError, add_key, new_key, read_keys, remove_key

run = CliRunner()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    path = tmp_path / "auth" / "keys.json"
    monkeypatch.setenv("PENSTOCK_KEYS_FILE", str(path))
    return path


def keys(*words: str) -> str:
    result = run.invoke(app, ["keys", *words])
    assert result.exit_code == 0, result.exception
    return result.stdout


def refusal(*words: str) -> str:
    result = run.invoke(app, ["keys", *words])
    assert isinstance(result.exception, KeyFileError)
    return str(result.exception)


def created(*words: str) -> dict[str, Any]:
    return dict(json.loads(keys("create", *words, "--json")))


def test_no_key_gets_the_tenant_of_everybody_by_its_name_alone(file: Path) -> None:
    assert "--tenant public" in refusal("create", "public")
    assert not file.exists()
    assert created("public", "--tenant", "public")["tenant"] == "public"
    assert created("Public")["tenant"] != "public"
    assert created("someone", "--tenant", "public")["tenant"] == "public"


def test_a_key_is_printed_once_and_kept_as_its_hash(file: Path) -> None:
    text = keys("create", "alice").strip()
    assert text.startswith(KEY_PREFIX)
    assert len(text) > len(KEY_PREFIX) + 40
    kept = file.read_text()
    assert text not in kept
    assert text.removeprefix(KEY_PREFIX) not in kept
    assert json.loads(kept)["keys"][0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    listed = keys("list") + keys("list", "--json")
    assert "alice" in listed
    assert text not in listed


def test_only_the_owner_of_the_file_reads_it(file: Path) -> None:
    keys("create", "alice")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    keys("create", "bob")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == ["keys.json", "keys.json.lock"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_change_by_root_leaves_the_file_to_its_owner(file: Path) -> None:
    keys("create", "alice")
    os.chown(file, 12345, 23456)
    keys("revoke", "alice")
    kept = file.stat()
    assert (kept.st_uid, kept.st_gid, stat.S_IMODE(kept.st_mode)) == (12345, 23456, 0o600)


def test_everything_a_key_can_have(file: Path) -> None:
    words = "--tenant team-a --class batch --class standard --rpm 60 --tpm 9000 --streams 4 --expires 2h"
    made = created("alice", *words.split())
    (shown,) = json.loads(keys("list", "--json"))
    expires = datetime.fromisoformat(shown.pop("expires"))
    assert timedelta(hours=1.9) < expires - datetime.now(UTC) < timedelta(hours=2.1)
    assert datetime.fromisoformat(shown.pop("created")) <= datetime.now(UTC)
    assert shown == {
        "id": made["id"],
        "name": "alice",
        "tenant": "team-a",
        "classes": ["standard", "batch"],
        "requests_per_min": 60,
        "tokens_per_min": 9000,
        "streams_max": 4,
        "expired": False,
    }


def test_a_day_to_expire_at(file: Path) -> None:
    created("alice", "--expires", "2020-01-31")
    (shown,) = json.loads(keys("list", "--json"))
    assert shown["expires"] == "2020-01-31T00:00:00Z"
    assert shown["expired"]
    assert "(over)" in keys("list")


def test_a_key_without_a_tenant_is_a_tenant(file: Path) -> None:
    assert created("alice")["tenant"] == "alice"
    assert created("Alice Smith")["tenant"].startswith("alice_smith-")


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_key_is_gone(file: Path, by: str) -> None:
    made, kept = created("alice"), created("bob")
    assert made["id"] in keys("revoke", made[by])
    assert [key.id for key in read_keys(file)] == [kept["id"]]
    assert "no key alice" in refusal("revoke", "alice")
    keys("create", "alice")


@pytest.mark.parametrize(
    "words",
    [
        ["create", "alice"],
        ["create", ""],
        ["create", "new\nline"],
        ["create", "bob", "--tenant", "a.b"],
        ["create", "bob", "--class", "fast"],
        ["create", "bob", "--expires", "soon"],
        ["revoke", "bob"],
    ],
)
def test_what_cannot_be_changes_nothing(file: Path, words: list[str]) -> None:
    keys("create", "alice")
    before = file.read_bytes()
    assert refusal(*words)
    assert file.read_bytes() == before


def test_no_file_at_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot read" in refusal("list")
    monkeypatch.delenv("PENSTOCK_KEYS_FILE")
    assert "--file" in refusal("list")
    assert "no keys" not in refusal("list")
    keys("create", "alice", "--file", str(file))
    keys("revoke", "alice", "--file", str(file))
    assert "no keys" in keys("list", "--file", str(file))


def test_a_broken_file_is_not_written_over(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"keys": [{"sha256": "secret"')
    assert "secret" not in refusal("create", "alice")
    assert file.read_text().endswith('"secret"')


def test_a_tenant_with_a_line_end_is_none(file: Path) -> None:
    keys("create", "alice", "--tenant", "acme")
    file.write_text(file.read_text().replace('"acme"', '"acme\\n"'))
    assert "is not one" in refusal("list")


def test_many_at_once_lose_nothing(file: Path) -> None:
    def churn(number: int) -> None:
        key, _ = new_key(f"n{number}")
        add_key(file, key)
        if number % 2:
            remove_key(file, key.name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(churn, range(40)))
    assert sorted(key.name for key in read_keys(file)) == sorted(f"n{n}" for n in range(0, 40, 2))
