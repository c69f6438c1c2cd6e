"""The head of a GGUF file, written here byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from workers.engines.llamacpp_file import SAMPLE_BYTES, BadModelFile, model_name, read_model_file

TEXT, ARRAY, U32 = 8, 9, 4


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def texts(*values: str) -> bytes:
    return struct.pack("<IQ", TEXT, len(values)) + b"".join(map(text, values))


def head(*keys: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(keys)) + b"".join(keys)


ARCHITECTURE = key("general.architecture", TEXT, text("llama"))
CONTEXT = key("llama.context_length", U32, struct.pack("<I", 4096))
NUMBERS = key("x.numbers", ARRAY, struct.pack("<IQ3I", U32, 3, 1, 2, 3))
TOKENS = key("tokenizer.ggml.tokens", ARRAY, texts("a", "b"))
POOLING = key("llama.pooling_type", U32, struct.pack("<I", 1))


def written(path: Path, *keys: bytes, weights: bytes = b"w" * 64) -> Path:
    path.write_bytes(head(*keys) + weights)
    return path


def test_what_is_read(tmp_path: Path) -> None:
    model = read_model_file(written(tmp_path / "m.gguf", ARCHITECTURE, NUMBERS, TOKENS, CONTEXT))
    assert (model.name, model.context_tokens, model.embeds) == ("m", 4096, False)
    assert read_model_file(written(tmp_path / "e.gguf", ARCHITECTURE, POOLING)).embeds


def test_the_tokenizer_s_hash_is_of_the_tokenizer_alone(tmp_path: Path) -> None:
    model = read_model_file(written(tmp_path / "m.gguf", ARCHITECTURE, TOKENS))
    other = read_model_file(written(tmp_path / "o.gguf", ARCHITECTURE, CONTEXT, TOKENS))
    assert model.tokenizer == other.tokenizer
    assert model.revision != other.revision
    swapped = key("tokenizer.ggml.tokens", ARRAY, texts("b", "a"))
    assert read_model_file(written(tmp_path / "s.gguf", ARCHITECTURE, swapped)).tokenizer != model.tokenizer


def test_both_ends_and_the_size_make_the_revision(tmp_path: Path) -> None:
    weights = bytes(3 * SAMPLE_BYTES)
    revisions = {
        read_model_file(written(tmp_path / "m.gguf", ARCHITECTURE, weights=changed)).revision
        for changed in (weights, weights + b"\0", b"\1" + weights[1:], weights[:-1] + b"\1")
    }
    assert len(revisions) == 4


def test_every_part_of_a_model_counts(tmp_path: Path) -> None:
    first = written(tmp_path / "m-00001-of-00002.gguf", ARCHITECTURE)
    second = written(tmp_path / "m-00002-of-00002.gguf", ARCHITECTURE)
    written(tmp_path / "other-00002-of-00002.gguf", ARCHITECTURE)
    before = read_model_file(first)
    assert before.name == model_name(second) == "m"
    written(second, ARCHITECTURE, weights=b"v" * 64)
    assert read_model_file(first).revision != before.revision


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"PK\3\4" + bytes(64), "not a GGUF file"),
        (head(version=99) + bytes(8), "version 99"),
        (head(ARCHITECTURE)[:-2], "ends before"),
        (head(TOKENS)[:-3], "ends before"),
        (head(key("k", 77, b"")) + bytes(8), "unknown type"),
    ],
)
def test_other_files(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(BadModelFile, match=word):
        read_model_file(path)
