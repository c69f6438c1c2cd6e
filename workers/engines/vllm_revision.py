"""What tells two models apart that a log must not be continued across: hashes of the files that make their output."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

SMALL_BYTES = 1 << 20
"""Up to here a file is hashed whole: configurations, indexes, templates."""

SAMPLES = 16
SAMPLE_BYTES = 64 << 10
"""Of a larger file, weights that is, as many places as these: fine-tunes of one model have equal names, sizes and
headers, and hundreds of gigabytes are not read twice at each start."""

HASH_CHARS = 16

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
)


def weights_hash(folder: Path, adapters: Mapping[str, Path], told: Sequence[str]) -> str:
    """Of a model's folder, its adapters' folders and settings in words. Equal files make equal hashes on any host."""
    digest = hashlib.sha256(repr(list(told)).encode())
    _add_folder(digest, folder)
    for name in sorted(adapters):
        digest.update(f"adapter {name}\0".encode())
        _add_folder(digest, adapters[name])
    return digest.hexdigest()[:HASH_CHARS]


def tokenizer_hash(folder: Path) -> str:
    """Of the tokenizer's files alone."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            digest.update(f"{name}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:HASH_CHARS]


def _add_folder(digest: hashlib._Hash, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            size = path.stat().st_size
            digest.update(f"{name.as_posix()}\0{size}\0".encode())
            _add_content(digest, path, size)


def _add_content(digest: hashlib._Hash, path: Path, size: int) -> None:
    with path.open("rb") as file:
        if size <= SMALL_BYTES:
            digest.update(file.read())
            return
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
