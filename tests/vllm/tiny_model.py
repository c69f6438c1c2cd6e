"""A tiny Qwen2 with random weights and a tokenizer of its own: `python -m tests.vllm.tiny_model FOLDER`.

Its answers are nonsense that is hard to continue: tokens follow in ever new orders, and half of them are only a part of
a character. The random weights carry two things that were not left to chance: a token tells, in a few dimensions of its
own, which bytes of UTF-8 may follow it, and it does not like to follow itself.
"""

from __future__ import annotations

import codecs
import json
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 20
VOCABULARY = 2048
HIDDEN = 128
LAYERS = 2
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 32  # the least that vLLM's attention kernel for CPUs takes
INNER = 256
POSITIONS = 4096

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]

# Python's own library is text that every machine has; the rest makes merges of characters that are several bytes long.
SOURCES = 60
FOREIGN = (
    "Žluťoučký kůň úpěl ďábelské ódy. Größe, façade, naïve, señor, smørrebrød, İstanbul, Łódź. "
    "Съешь ещё этих мягких французских булок, да выпей чаю. Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία. "
    "天地玄黄。宇宙洪荒。日月盈昃。辰宿列張。寒来暑往。秋収冬蔵。いろはにほへと、ちりぬるを。아름다운 강산에. "
    "😀😃😄😁🚀🌊🏞️👩‍🚀👨‍👩‍👧‍👦🇯🇵🇧🇷❤️🔥✨🎉 ∀x∈A: ⌈x⌉ ≥ ⌊x⌋, √2 ≈ 1.414 € £ ¥ “…” — ½ ⅓ "
)
FOREIGN_TIMES = 40

TEMPLATE = """\
{%- if tools %}<|im_start|>system
# Tools
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Answer a call as <tool_call>{"name": …, "arguments": …}</tool_call>.<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if not enable_thinking | default(false) %}<think>

</think>

{% endif %}{% endif %}"""

# Dimensions that the layers read and never write: one for each number of bytes that a character still lacks, and one
# that is the same for all tokens.
LACKS = [0, 1, 2, 3]
ALWAYS = 4
OWN = 5
LOUD = 6.0
MUST = 8.0
NEVER = -40.0
FOREIGN_BIAS = 6.0
SPLIT_BIAS = 6.0
REPEAT = -1.0


def build(folder: Path) -> None:
    """Writes the model and its tokenizer, the same on every call (with the same version of Python)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token=END,
        pad_token=PAD,
        chat_template=TEMPLATE,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    _write(
        folder / "config.json",
        architectures=["Qwen2ForCausalLM"],
        model_type="qwen2",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        hidden_act="silu",
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        torch_dtype="float32",
        bos_token_id=tokenizer.token_to_id(PAD),
        eos_token_id=tokenizer.token_to_id(END),
    )
    save_file(_weights(_pieces(tokenizer)), folder / "model.safetensors", metadata={"format": "pt"})


class Piece(NamedTuple):
    """How a token fits between others: bytes of a character that must lack before it, and that lack after it.
    `before` is None for what is never said by itself."""

    before: int | None
    after: int
    is_foreign: bool


def piece_of(data: bytes) -> Piece:
    """The bytes 0x80 to 0xBF go on with a character. One of them alone fits in exactly one place, so that what lacks
    after it is known whatever stood before: 0x9F is a second of four, 0x90 to 0x9E the last but one, others the last.
    """
    never = Piece(None, 0, is_foreign=False)
    goes_on = len(data) - len(data.lstrip(bytes(range(0x80, 0xC0))))
    if goes_on == len(data) == 1:
        before = 3 if data[0] == 0x9F else 2 if 0x90 <= data[0] < 0x9F else 1
        return Piece(before, before - 1, is_foreign=True)
    if goes_on > 3 or (goes_on == 3 and data[0] != 0x9F):
        return never
    rest = data[goes_on:]
    if rest in {b"\xe0", b"\xed"} or rest[-1:] >= b"\xf1":
        return never
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(rest)
    except UnicodeDecodeError:
        return never
    begun = decoder.getstate()[0]
    lacks = (2 if begun[0] < 0xE0 else 3 if begun[0] < 0xF0 else 4) - len(begun) if begun else 0
    if not text.isprintable() or text.isspace() or (goes_on and begun):
        return never
    return Piece(goes_on, lacks, is_foreign=not data.isascii())


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKS),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:SOURCES]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in library]
    tokenizer.train_from_iterator([*texts, FOREIGN * FOREIGN_TIMES], trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def _pieces(tokenizer: Tokenizer) -> list[Piece]:
    alphabet = _alphabet()
    marks = {PAD, START, *MARKS}
    pieces = []
    for token in range(VOCABULARY):
        text = tokenizer.id_to_token(token)
        if text == END:
            pieces.append(Piece(0, 0, is_foreign=False))
        elif text in marks:
            pieces.append(Piece(None, 0, is_foreign=False))
        else:
            pieces.append(piece_of(bytes(alphabet[character] for character in text)))
    return pieces


def _alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: itself where it can be seen, else the next
    free one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    characters = {chr(byte): byte for byte in seen}
    characters.update({chr(256 + index): byte for index, byte in enumerate(hidden)})
    return characters


def _weights(pieces: list[Piece]) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(SEED)

    def random(rows: int, columns: int, scale: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=chance) * scale / columns**0.5

    def writes(columns: int, scale: float) -> torch.Tensor:
        weights = random(HIDDEN, columns, scale)
        weights[:OWN] = 0
        return weights

    embedding = torch.randn(VOCABULARY, HIDDEN, generator=chance)
    head = random(VOCABULARY, HIDDEN, 1.0)
    head += REPEAT * embedding / HIDDEN**0.5
    head *= 4.0 / head.norm(dim=1, keepdim=True)
    embedding[:, :OWN] = 0
    embedding[:, ALWAYS] = LOUD
    head[:, :OWN] = 0
    for token, piece in enumerate(pieces):
        embedding[token, LACKS[piece.after]] = LOUD
        head[token, ALWAYS] = _bias(piece) / LOUD
        if piece.before is not None:
            head[token, LACKS[piece.before]] = MUST
    weights = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "model.norm.weight": torch.ones(HIDDEN),
    }
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        inside, outside = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        weights |= {
            f"{name}.input_layernorm.weight": torch.ones(HIDDEN),
            f"{name}.post_attention_layernorm.weight": torch.ones(HIDDEN),
            f"{name}.self_attn.q_proj.weight": random(inside, HIDDEN, 1.5),
            f"{name}.self_attn.k_proj.weight": random(outside, HIDDEN, 1.5),
            f"{name}.self_attn.v_proj.weight": random(outside, HIDDEN, 1.5),
            f"{name}.self_attn.o_proj.weight": writes(inside, 1.5),
            f"{name}.self_attn.q_proj.bias": torch.zeros(inside),
            f"{name}.self_attn.k_proj.bias": torch.zeros(outside),
            f"{name}.self_attn.v_proj.bias": torch.zeros(outside),
            f"{name}.mlp.gate_proj.weight": random(INNER, HIDDEN, 1.5),
            f"{name}.mlp.up_proj.weight": random(INNER, HIDDEN, 1.5),
            f"{name}.mlp.down_proj.weight": writes(INNER, 1.5),
        }
    return weights


def _bias(piece: Piece) -> float:
    if piece.before is None:
        return NEVER
    return FOREIGN_BIAS * piece.is_foreign + SPLIT_BIAS * (piece.after > 0)


def _write(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
