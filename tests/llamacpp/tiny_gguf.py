"""A llama of 200 thousand random weights with a tokenizer of its own, whose every output is valid UTF-8.

Most of its characters take two to four tokens, one for each byte, so that nearly every cut falls inside of one: where a
token leads is told by some dimensions of its embedding, where it may stand by the same ones of the output weights. All
else is random, and what comes next hangs on all that came before.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CONTEXT_TOKENS = 8192
WIDTH, HEADS, LAYERS, HIDDEN = 64, 2, 2, 128
SEED = 15
CERTAINTY = 40.0
"""How strongly a byte in the middle of a character asks for the next one: chance never wins against it."""

EAGERNESS = 6.0
"""How much likelier the first byte of a character of several is than an ASCII one."""

WORDS = (
    *("river", "water", "gate", "light", "stone", "the", "of", "and", "to", "in", "that", "flows", "turns"),
    *("slow", "quiet", "über", "café", "true", "false"),
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
END, CALL = 2, 3
"""Ids of the token that ends an answer and of the one that begins a call: tests that want one give it a bias."""

CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Call them as <tool_call>{"name": ..., "arguments": ...}</tool_call>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.content %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Which bytes may stand in which place. Each set is used in one place only, so that a byte alone says what comes next.
START, LAST, ACCENT, CJK, EMOJI, EMOJI_PAGE, CALLED, CLOSED, ENDED, NOWHERE = range(10)
PLACES: dict[int, tuple[int, int]] = {
    **dict.fromkeys(range(0x80, 0x8C), (LAST, START)),
    **dict.fromkeys(range(0xA0, 0xB0), (ACCENT, START)),
    **dict.fromkeys(range(0x90, 0x9F), (CJK, LAST)),
    **dict.fromkeys(range(0x8C, 0x90), (EMOJI_PAGE, LAST)),
    0x9F: (EMOJI, EMOJI_PAGE),
    0xC3: (START, ACCENT),
    **dict.fromkeys(range(0xE4, 0xE9), (START, CJK)),
    0xF0: (START, EMOJI),
    0x0A: (CALLED, START),
    ord("}"): (NOWHERE, CLOSED),
}
LEADS = (0xC3, *range(0xE4, 0xE9), 0xF0)


def build(path: Path, *, embeds: bool = False, layers: int = LAYERS) -> Path:
    """Writes the model; always the same bytes. `embeds`: for embeddings, which it makes the mean of a text's. `layers`:
    more of them make it slower."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    if embeds:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    leads, stands = _add_tokenizer(writer)
    _add_weights(writer, layers, leads, stands)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> tuple[list[int], list[int]]:
    """Bytes, words made by merges, and where each token leads and may stand."""
    letters = _letters()
    tokens = list(SPECIAL) + [letters[byte] for byte in range(256)]
    stands = [NOWHERE, NOWHERE, ENDED, NOWHERE, CLOSED] + [_place(byte)[0] for byte in range(256)]
    leads = [START, START, START, CALLED, ENDED] + [_place(byte)[1] for byte in range(256)]
    merges = []
    for word in WORDS:
        pieces = [letters[byte] for byte in f" {word}".encode()]
        made = pieces[0]
        for piece in pieces[1:]:
            merges.append(f"{made} {piece}")
            made += piece
            if made not in tokens:
                tokens.append(made)
                # A piece that ends inside of a character leads where its last byte does.
                stands.append(START)
                leads.append(ACCENT if piece == letters[0xC3] else START)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.USER_DEFINED] * 2
    types += [gguf.TokenType.NORMAL] * (len(tokens) - len(types))
    writer.add_token_types(types)
    writer.add_token_merges(list(dict.fromkeys(merges)))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return leads, stands


def _add_weights(writer: gguf.GGUFWriter, layers: int, leads: list[int], stands: list[int]) -> None:
    tokens = len(leads)
    chance = np.random.default_rng(SEED)

    def random(rows: int, columns: int, scale: float) -> np.ndarray:
        return (chance.standard_normal((rows, columns)) * scale).astype(np.float32)

    places = NOWHERE + 1
    embedding, output = random(tokens, WIDTH, 1.0), random(tokens, WIDTH, 0.5)
    embedding[:, :places] = 0
    embedding[np.arange(tokens), leads] = 6.0
    output[:, :places] = 0
    output[np.arange(tokens), stands] = CERTAINTY
    output[[len(SPECIAL) + byte for byte in LEADS], START] += EAGERNESS
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(layers):
        name = f"blk.{layer}."
        writer.add_tensor(f"{name}attn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{name}ffn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{name}attn_q.weight", random(WIDTH, WIDTH, 0.3))
        for part in ("k", "v"):
            writer.add_tensor(f"{name}attn_{part}.weight", random(WIDTH // HEADS, WIDTH, 0.3))
        for part in ("gate", "up"):
            writer.add_tensor(f"{name}ffn_{part}.weight", random(HIDDEN, WIDTH, 0.2))
        for part, columns in (("attn_output", WIDTH), ("ffn_down", HIDDEN)):
            weight = random(WIDTH, columns, 0.3 * (LAYERS / layers) ** 0.5)
            weight[:places] = 0  # where a token leads is not for the layers to change
            writer.add_tensor(f"{name}{part}.weight", weight)


def _place(byte: int) -> tuple[int, int]:
    """Where a byte may stand, and where it leads. Other bytes than text's are never chosen."""
    if byte in PLACES:
        return PLACES[byte]
    return (START if 0x20 <= byte < 0x7F else NOWHERE), START


def _letters() -> dict[int, str]:
    """The letter that stands for each byte in the vocabulary of a byte-level tokenizer, as GPT-2 has them."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
