"""The text a simulator makes: token i is a pure function of (prompt, seed, i).

BLAKE2b turns prompt and seed into a 64-bit key, and one step of splitmix64 turns key and i into a word.
"""

from __future__ import annotations

import hashlib

_TEXT = """
river water gate light stone cloud amber harbour meadow lantern copper willow thunder orchard velvet compass
café naïve façade über Zürich señal jalapeño crème brûlée smörgåsbord Ærø Łódź żółty čaj ångström œuvre
λόγος мост река 水 山 風 春 日本 서울 שלום ☕ 🌊 🏔️ the a of and to in that it with as for on by from flows turns
holds carries opens closes rises falls waits listens answers remembers follows returns begins ends slow
quiet bright heavy narrow golden distant patient silver hollow gentle steady early final second open
pressure turbine valve channel penstock reservoir current torrent cascade delta basin spring tide shore
"""

WORDS = tuple(_TEXT.split())
"""What tokens are made of: a token's id is its index here. Some words take several bytes, or several code points."""

NATURAL_TOKENS_MIN, NATURAL_TOKENS_MAX = 16, 128
"""The output length of a request that names no limit."""

_MASK = (1 << 64) - 1


def reference_tokens(prompt: str, seed: int, n: int) -> tuple[list[int], list[str]]:
    """The first `n` tokens of the one right output: ids and the text of each."""
    key = output_key(prompt, seed)
    ids = [token_at(key, i) for i in range(n)]
    return ids, [text_of(token, i) for i, token in enumerate(ids)]


def reference_text(prompt: str, seed: int, n: int) -> str:
    """The text of the first `n` tokens of the one right output."""
    return "".join(reference_tokens(prompt, seed, n)[1])


def natural_length(prompt: str, seed: int) -> int:
    """After how many tokens a request ends by itself."""
    span = NATURAL_TOKENS_MAX - NATURAL_TOKENS_MIN + 1
    return NATURAL_TOKENS_MIN + _mix(output_key(prompt, seed) ^ _MASK) % span


def output_key(prompt: str, seed: int) -> int:
    """What the whole output follows from."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{prompt}".encode(), digest_size=8).digest(), "big")


def token_at(key: int, i: int) -> int:
    """The id of token `i`."""
    return _mix(key + i) % len(WORDS)


def text_of(token: int, i: int) -> str:
    """The text of token `i`, if that is `token`."""
    return f" {WORDS[token]}" if i else WORDS[token]


def _mix(state: int) -> int:
    """One step of splitmix64."""
    z = (state + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
