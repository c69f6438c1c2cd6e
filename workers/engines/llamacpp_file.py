"""What a GGUF file says of the model in it, read without loading the model.

The file begins with `GGUF`, a version, the numbers of tensors and of keys, then the keys with their values: all that is
known of the model and its tokenizer. Integers are little-endian, a text is its length and its bytes.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from pathlib import Path
from typing import Any

import msgspec

MAGIC = b"GGUF"
VERSIONS = (2, 3)

SAMPLE_BYTES = 1 << 20
"""Hashed at each end of a file. Reading all of 40 GB would take longer than loading them; the head holds the metadata
and the first weights, the tail the last ones, and no training leaves both as they were."""

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_PART = re.compile(r"-\d{5}-of-\d{5}$")


class BadModelFile(ValueError):
    """Not a GGUF file, or one that ends too early: download it again."""


class ModelFile(msgspec.Struct, frozen=True):
    """`name` is the file's without `.gguf` and without the number of a part. `context_tokens` is what the model was
    trained for. `embeds`: it turns texts into vectors (the file names a pooling) instead of going on with them.
    `revision` and `tokenizer` are hashes, of samples of the weights and of all that the tokenizer consists of."""

    name: str
    context_tokens: int
    embeds: bool
    revision: str
    tokenizer: str


def read_model_file(path: Path) -> ModelFile:
    """Reads the head of a file, of the first one where a model has several parts. Raises OSError and BadModelFile."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            values, tokenizer = _Reader(data).keys()
        except struct.error:
            raise BadModelFile(f"{path} ends before its metadata does") from None
        except ValueError as error:
            raise BadModelFile(f"{path}: {error}") from None
    architecture = values.get("general.architecture", "")
    return ModelFile(
        name=model_name(path),
        context_tokens=int(values.get(f"{architecture}.context_length", 0)),
        embeds=bool(values.get(f"{architecture}.pooling_type", 0)),
        revision=sample_hash(*_parts(path)),
        tokenizer=tokenizer,
    )


def model_name(path: Path) -> str:
    """What clients call the model of a file: `qwen3-8b-q4_k_m` of `/models/qwen3-8b-q4_k_m.gguf`."""
    return _PART.sub("", path.stem)


def sample_hash(*paths: Path) -> str:
    """Of the size, the head and the tail of each file."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def _parts(path: Path) -> list[Path]:
    if not _PART.search(path.stem):
        return [path]
    pattern = re.compile(re.escape(model_name(path)) + _PART.pattern)
    return sorted(other for other in path.parent.glob("*.gguf") if pattern.fullmatch(other.stem))


class _Reader:
    """Goes through the head once, from the first byte to the last value."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = len(MAGIC)

    def keys(self) -> tuple[dict[str, Any], str]:
        """The numbers and texts by key, and the hash of everything about the tokenizer."""
        if self._data[: len(MAGIC)] != MAGIC:
            raise ValueError("not a GGUF file")
        version, _tensors, count = self._number("I"), self._number("Q"), self._number("Q")
        if version not in VERSIONS:
            raise ValueError(f"GGUF version {version} is not one of {VERSIONS}")
        values: dict[str, Any] = {}
        tokenizer = hashlib.sha256()
        for _ in range(count):
            begin = self._at
            key = self._text().decode()
            value = self._value(self._number("I"))
            if key.startswith("tokenizer."):
                tokenizer.update(self._data[begin : self._at])
            elif value is not None:
                values[key] = value
        return values, tokenizer.hexdigest()[:12]

    def _value(self, kind: int) -> Any:
        """A number or a text; arrays are passed over."""
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text().decode(errors="replace")
        if kind != _ARRAY:
            raise ValueError(f"unknown type {kind} at byte {self._at}")
        item, count = self._number("I"), self._number("Q")
        if item in _NUMBERS:
            self._skip(count * struct.calcsize(f"<{_NUMBERS[item]}"))
        else:
            for _ in range(count):
                self._value(item)
        return None

    def _number(self, code: str) -> Any:
        (number,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return number

    def _text(self) -> bytes:
        length = self._number("Q")
        begin = self._at
        self._skip(length)
        return self._data[begin : self._at]

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._data):
            raise struct.error
