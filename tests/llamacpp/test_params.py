"""The settings as llama.cpp gets them."""

from __future__ import annotations

import xllamacpp

from infra.settings import load_settings
from workers.engines.llamacpp_file import ModelFile
from workers.engines.llamacpp_params import server_params

FILE = ModelFile("gemma", 8192, embeds=False, revision="r", tokenizer="t")


def test_each_setting_is_a_parameter() -> None:
    settings = load_settings(
        {
            "model": "gemma.gguf",
            "mmproj": "sees.gguf",
            "parallel": 8,
            "threads": 4,
            "n_gpu_layers": 35,
            "tensor_split": "0.45",
            "flash_attn": "on",
            "mlock": "on",
        }
    )
    params = server_params(settings, FILE, 4096)
    assert (params.model.path, params.mmproj.path) == ("gemma.gguf", "sees.gguf")
    assert (params.n_parallel, params.n_ctx) == (8, 8 * 4096)
    assert (params.cpuparams.n_threads, params.n_gpu_layers) == (4, 35)
    assert abs(params.tensor_split[0] - 0.45) < 1e-6
    assert params.flash_attn_type == xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    assert params.load_mode == xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP_MLOCK
