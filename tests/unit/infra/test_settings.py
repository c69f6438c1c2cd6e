"""Settings: precedence, loud failures, redaction."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from infra.engine_settings import REPEATABLE
from infra.setting_aliases import ALIASES, Taken
from infra.setting_topics import STARTS, by_topic, describe, settings_tables
from infra.settings import (
    Settings,
    SettingsError,
    aliases_taken,
    explain,
    hand_down,
    load_settings,
    redact,
    source_of,
)


@pytest.fixture(autouse=True)
def _clean_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment and no file but what a test makes."""
    monkeypatch.chdir(tmp_path)
    for name in (*(f"PENSTOCK_{name.upper()}" for name in Settings.model_fields), *ALIASES):
        monkeypatch.delenv(name, raising=False)


def toml(text: str) -> None:
    Path("penstock.toml").write_text(text, encoding="utf-8")


def test_defaults_are_valid_and_immutable() -> None:
    settings = load_settings()
    assert settings.port == 8000
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_command_line_beats_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = {"port": "4"}
    toml("port = 2\nslots = 2\nworkers = 2")
    monkeypatch.setenv("PENSTOCK_PORT", "3")
    monkeypatch.setenv("PENSTOCK_SLOTS", "3")
    settings = load_settings(cli)
    assert (settings.port, settings.slots, settings.workers, settings.edges) == (4, 3, 2, 1)
    sources = {line.name: line.source for line in explain(cli)}
    assert sources["port"] == source_of("port", cli) == "command line"
    assert sources["slots"] == "environment"
    assert sources["workers"] == "penstock.toml"
    assert sources["edges"] == "default"


def test_other_servers_variables_hold_between_ours_and_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    toml("slots = 2\nqueue_max = 2\ndtype = 'half'")
    monkeypatch.setenv("MAX_ACTIVE", "3")
    monkeypatch.setenv("QUEUE_MAX", "3")
    monkeypatch.setenv("DTYPE", "")
    monkeypatch.setenv("PENSTOCK_QUEUE_MAX", "4")
    settings = load_settings()
    assert (settings.slots, settings.queue_max, settings.dtype) == (3, 4, "half"), "an empty one is not set"
    assert source_of("slots") == "MAX_ACTIVE"
    assert source_of("queue_max") == "environment"
    assert aliases_taken() == {"slots": Taken("MAX_ACTIVE", "3", "3")}
    assert aliases_taken({"slots": 5}) == {}


@pytest.mark.parametrize(
    ("variable", "written", "name", "value"),
    [
        ("VLLM_BASE_URL", "http://vllm:8000", "upstream", "http://vllm:8000/v1"),
        ("VLLM_BASE_URL", "http://vllm:8000/", "upstream", "http://vllm:8000/v1"),
        ("VLLM_BASE_URL", "http://vllm/api/v2", "upstream", "http://vllm/api/v2"),
        ("MOCK_TOKEN_DELAY_SECONDS", "0.02", "itl_ms", 20),
        ("BATCH_TIMEOUT", "1000", "batch_window_ms", 1000),
        ("SHUTDOWN_TIMEOUT_SECONDS", "10", "drain_timeout_s", 10),
        ("RATE_LIMIT_REQUESTS", "120", "rate_requests_max", 120),
    ],
)
def test_units_of_other_servers_are_converted(
    monkeypatch: pytest.MonkeyPatch, variable: str, written: str, name: str, value: object
) -> None:
    monkeypatch.setenv(variable, written)
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize(
    "variable", ["MAX_ACTIVE", "MOCK_TOKEN_DELAY_SECONDS", "QUEUE_MODE", "VLLM_BASE_URL"]
)
def test_a_bad_variable_of_another_server_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "not this")
    with pytest.raises(SettingsError, match=rf"bad setting {variable}='not this' \(environment\)"):
        load_settings()


def test_another_servers_key_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEY", "hunter2")
    assert load_settings().api_keys.get_secret_value() == "hunter2"
    assert "hunter2" not in str(explain())


def test_sizes_can_be_written_with_units() -> None:
    assert load_settings({"client_buffer_bytes_max": "512KiB"}).client_buffer_bytes_max == 512 * 1024
    assert load_settings({"client_buffer_bytes_max": 1000}).client_buffer_bytes_max == 1000


def test_values_are_plain_types_that_any_encoder_takes() -> None:
    given = load_settings({"queue_bytes_max": "1GiB"}).model_dump()
    assert {type(value) for value in given.values()} <= {bool, int, float, str, type(Path()), SecretStr}


def test_unknown_name_in_each_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"unknown setting --prot 1 \(command line\)"):
        load_settings({"prot": 1})
    toml("prot = 1")
    with pytest.raises(SettingsError, match=r"unknown setting prot = 1 \(penstock\.toml\)"):
        load_settings()
    toml("")
    monkeypatch.setenv("PENSTOCK_PROT", "1")
    with pytest.raises(SettingsError, match=r"unknown setting PENSTOCK_PROT='1' \(environment\)"):
        load_settings()


def test_bad_value_in_each_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"bad setting --port many \(command line\): .*integer"):
        load_settings({"port": "many"})
    toml("port = 70000")
    with pytest.raises(SettingsError, match=r"bad setting port = 70000 \(penstock\.toml\): .*65535"):
        load_settings()
    toml("")
    monkeypatch.setenv("PENSTOCK_ITL_MS", "-1")
    with pytest.raises(SettingsError, match=r"bad setting PENSTOCK_ITL_MS='-1' \(environment\): .*0"):
        load_settings()


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"--slots.*--port"):
        load_settings({"port": -1, "slots": -1})


def test_a_file_that_is_not_toml_is_named() -> None:
    toml("port = = 1")
    with pytest.raises(SettingsError, match=r"cannot read penstock\.toml"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("worker_suspect_s", 4, "worker_silent_s"),
        ("pull_interval_s", 4, "worker_silent_s"),
        ("leader_interval_s", 5, "leader_ttl_s"),
        ("request_timeout_s", 4000, "request_timeout_max_s"),
    ],
)
def test_pairs_in_the_wrong_order_name_both(name: str, value: float, other: str) -> None:
    with pytest.raises(SettingsError, match=rf"--{name.replace('_', '-')} .*{other}"):
        load_settings({name: value})


@pytest.mark.parametrize("url", ["localhost:4222", "http://127.0.0.1", "nats://a,b", ""])
def test_bad_broker_urls(url: str) -> None:
    with pytest.raises(SettingsError, match="nats-url"):
        load_settings({"nats_url": url})


def test_credentials_are_shown_nowhere() -> None:
    url = "nats://user:hunter2@a:4222,tls://token2@b"
    shown = {line.name: line.value for line in explain({"nats_url": url})}
    assert shown["nats_url"] == redact(url) == "nats://***@a:4222,tls://***@b"
    with pytest.raises(SettingsError) as error:
        load_settings({"nats_url": "http://user:hunter2@a"})
    assert "hunter2" not in str(error.value)


def test_secrets_are_shown_nowhere() -> None:
    key = "sk-hunter2"
    assert load_settings({"upstream_api_key": key}).upstream_api_key.get_secret_value() == key
    shown = {line.name: line.value for line in explain({"upstream_api_key": key})}
    assert shown["upstream_api_key"] == "***"
    assert {line.name: line.value for line in explain()}["upstream_api_key"] == "", (
        "whether there is one is no secret"
    )
    toml("upstream_api_key = 123456")
    with pytest.raises(SettingsError, match="upstream_api_key") as error:
        load_settings()
    assert "123456" not in str(error.value)


def test_children_get_secrets_by_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("penstock_upstream_api_key", "weaker")
    monkeypatch.setenv("UNRELATED", "kept")
    cli = {
        "upstream_api_key": "sk-1",
        "upstream": "http://me:pw@a/v1",
        "nats_url": "nats://a:4222",
        "port": "1",
    }
    words, environment = hand_down(cli)
    assert words == ["--set", "nats_url=nats://a:4222", "--set", "port=1"]
    own = {name: value for name, value in environment.items() if name.upper().startswith("PENSTOCK_")}
    assert own == {"PENSTOCK_UPSTREAM_API_KEY": "sk-1", "PENSTOCK_UPSTREAM": "http://me:pw@a/v1"}
    assert environment["UNRELATED"] == "kept"


def test_documentation_covers_every_setting() -> None:
    names = [setting.name for setting in describe() if setting.meaning.endswith((".", ")"))]
    assert names == list(Settings.model_fields)
    rows = [line for line in settings_tables().splitlines() if line.startswith("| `")]
    assert len(rows) == len(names)
    assert all(line.count("|") == 4 for line in rows)


def test_every_setting_has_a_topic() -> None:
    assert all(setting.topic for setting in describe())
    assert set(by_topic()) == set(STARTS.values())
    assert set(STARTS) <= set(Settings.model_fields), "a topic starts at a setting that is not there"
    assert set(REPEATABLE) <= set(Settings.model_fields)
    simulated = {setting.name: setting.meaning for setting in by_topic()["Simulator"]}
    assert simulated["itl_ms"] == "Time between tokens."
