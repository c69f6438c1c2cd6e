"""vLLM's command line of our settings, and what tells two models apart."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from infra.settings import SettingsError, load_settings
from workers.engines import registry
from workers.engines.vllm_revision import SMALL_BYTES, tokenizer_hash, weights_hash
from workers.engines.vllm_start import words_of
from workers.engines.vllm_tie import Tie


def test_flags_as_users_of_vllm_know_them() -> None:
    settings = load_settings(
        {
            "engine": "vllm",
            "model": "org/name",
            "max_model_len": 4096,
            "quantization": "awq",
            "engine_arg": "enforce-eager 'chat-template=a b.jinja' --seed=3",
            "lora": "one=/a two=/b",
        }
    )
    words = words_of(settings)
    assert words.adapters == ["one", "two"]
    assert words.arguments == [
        *("--model", "org/name", "--served-model-name", "org/name"),
        *("--allowed-media-domains", "none.invalid"),
        *(
            "--max-model-len",
            "4096",
            "--dtype",
            "auto",
            "--quantization",
            "awq",
            "--tensor-parallel-size",
            "1",
        ),
        *("--enforce-eager", "--chat-template", "a b.jinja", "--seed", "3"),
        *("--enable-lora", "--lora-modules", "one=/a", "two=/b"),
    ]


def test_hosts_that_an_operator_lists_come_after_the_one_that_stands_for_none() -> None:
    """vLLM's parser takes the last of several."""
    settings = load_settings(
        {"engine": "vllm", "model": "m", "engine_arg": "allowed-media-domains=a.example"}
    )
    words = words_of(settings).arguments
    given = [words[at + 1] for at, word in enumerate(words) if word == "--allowed-media-domains"]
    assert given == ["none.invalid", "a.example"]


@pytest.mark.parametrize("given", [{"lora": "no path"}, {"engine_arg": "a='b"}, {"lora": "=x"}])
def test_what_cannot_be_read_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(given))):
        words_of(load_settings({"engine": "vllm", "model": "m"} | given))


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match="penstock doctor"):
        registry.make_engine(load_settings({"engine": "vllm", "model": "m"}))


def test_equal_files_are_one_model_wherever_they_lie(tmp_path: Path) -> None:
    here, there = [model_in(tmp_path / name) for name in ("here", "there")]
    assert weights_hash(here, {}, ["0.32"]) == weights_hash(there, {}, ["0.32"])
    assert tokenizer_hash(here) == tokenizer_hash(there)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
def test_any_other_file_is_another_model(name: str, tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model")
    before = weights_hash(folder, {}, [])
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    assert weights_hash(folder, {}, []) != before


def test_settings_and_adapters_count(tmp_path: Path) -> None:
    folder, other = model_in(tmp_path / "model"), model_in(tmp_path / "adapter")
    hashes = [
        weights_hash(folder, {}, ["float32"]),
        weights_hash(folder, {}, ["bfloat16"]),
        weights_hash(folder, {"a": other}, ["float32"]),
        weights_hash(folder, {"b": other}, ["float32"]),
    ]
    assert len({*hashes}) == len(hashes)


def test_tokenizer_is_told_apart_from_the_weights(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model")
    before = tokenizer_hash(folder)
    (folder / "config.json").write_text("{}")
    assert tokenizer_hash(folder) == before
    (folder / "tokenizer.json").write_text("{}")
    assert tokenizer_hash(folder) != before


def test_a_copy_within_a_process_ties_nothing() -> None:
    assert isinstance(pickle.loads(pickle.dumps(Tie())), Tie)


def model_in(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(f"of {name}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * (SMALL_BYTES // 128))
    return folder
