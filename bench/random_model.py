"""A Qwen2 of a given size with random weights, and a tokenizer whose every token is readable: for vLLM to be timed on.

What it says is nonsense; how long it takes is what counts. `torch` and `transformers` come with vLLM.
"""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import NamedTuple

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 2048
HEAD_SIZE = 64
POSITIONS = 4096
TRAINED_ON = 60


class Size(NamedTuple):
    """How large a model is."""

    hidden: int
    layers: int

    @property
    def name(self) -> str:
        """`random-512x8`."""
        return f"random-{self.hidden}x{self.layers}"


def build(folder: Path, size: Size) -> Path:
    """Writes the model to a folder in `folder` that has its name, which is returned."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    target = folder / size.name
    target.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(target)
    heads = size.hidden // HEAD_SIZE
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 11 // 4,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(target)
    return target


def _write_tokenizer(target: Path) -> None:
    """Only ASCII, so that every token is whole characters: a stream shows something at every step."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(word, special=True) for word in (PAD, START, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=[c for c in pre_tokenizers.ByteLevel.alphabet() if c.isascii() or c in "ĠĊ"],
    )
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:TRAINED_ON]
    texts = [path.read_text(encoding="utf-8").encode("ascii", "ignore").decode() for path in library]
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY, "too little text to train on"
    tokenizer.save(str(target / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "chat_template": TEMPLATE,
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(config))
