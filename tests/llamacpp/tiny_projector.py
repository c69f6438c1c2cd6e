"""Random eyes for the tiny model: a vision encoder of two layers, four by four patches, and pictures to show it."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.llamacpp.tiny_gguf import WIDTH as MODEL_WIDTH

IMAGE, PATCH = 32, 8
PATCHES = (IMAGE // PATCH) ** 2
WIDTH, HIDDEN, HEADS, LAYERS = 32, 64, 2, 2


def build_projector(path: Path) -> Path:
    """Writes the file that goes with the tiny model as its `mmproj`; always the same bytes."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "mlp")
    for name, value in (
        ("image_size", IMAGE),
        ("patch_size", PATCH),
        ("embedding_length", WIDTH),
        ("feed_forward_length", HIDDEN),
        ("block_count", LAYERS),
        ("attention.head_count", HEADS),
        ("projection_dim", MODEL_WIDTH),
    ):
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def picture(red: int, green: int, blue: int) -> dict[str, Any]:
    """A message's part with a PNG of one colour."""
    rows = (b"\0" + bytes((red, green, blue)) * IMAGE) * IMAGE
    header = struct.pack(">IIBBBBB", IMAGE, IMAGE, 8, 2, 0, 0, 0)
    chunks = (("IHDR", header), ("IDAT", zlib.compress(rows)), ("IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind.encode(), data) for kind, data in chunks)
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"},
    }


def _add_weights(writer: gguf.GGUFWriter) -> None:
    chance = np.random.default_rng(1)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (chance.standard_normal(shape) * 0.3).astype(np.float32))

    def add_layer(name: str, *shape: int) -> None:
        add(f"{name}.weight", *shape)
        add(f"{name}.bias", shape[0])

    add("v.patch_embd.weight", WIDTH, 3, PATCH, PATCH)
    add("v.position_embd.weight", PATCHES, WIDTH)
    for name in ("v.pre_ln", "v.post_ln"):
        add_layer(name, WIDTH)
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add_layer(f"v.blk.{layer}.{part}", WIDTH, WIDTH)
        for part in ("ln1", "ln2"):
            add_layer(f"v.blk.{layer}.{part}", WIDTH)
        add_layer(f"v.blk.{layer}.ffn_up", HIDDEN, WIDTH)
        add_layer(f"v.blk.{layer}.ffn_down", WIDTH, HIDDEN)
    add_layer("mm.0", MODEL_WIDTH, WIDTH)
    add_layer("mm.2", MODEL_WIDTH, MODEL_WIDTH)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
