"""llama.cpp's parameters from the settings, and what a continuation elsewhere must have in common."""

from __future__ import annotations

import os
import secrets
from typing import Any

import xllamacpp

from infra.engine_settings import EngineSettings
from infra.settings import SettingsError
from workers.engines.llamacpp_file import ModelFile

BATCH_TOKENS = 512
"""Prompt tokens read in one step, as many as the library computes at once (`n_ubatch`). Its own 2,048 would be four
times as long without a sign of life, and as long before a cancelled prefill is noticed."""


def revision_of(settings: EngineSettings, model: ModelFile, projector: str, context: int) -> str:
    """Whatever changes the output. Not the number of threads or slots, which only move roundings."""
    parts = [
        f"xllamacpp {xllamacpp.__version__}",
        model.revision,
        projector,
        str(context),
        settings.flash_attn,
    ]
    return "-".join(part for part in parts if part)


def server_params(settings: EngineSettings, model: ModelFile, context: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = settings.model
    params.mmproj.path = settings.mmproj
    params.n_parallel = settings.parallel
    params.n_ctx = context * settings.parallel
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    if model.embeds:
        # A text is embedded in one step.
        params.embedding = True
        params.n_batch = params.n_ubatch = max(BATCH_TOKENS, context)
    threads = settings.threads or _cpus()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = settings.n_gpu_layers
    if settings.tensor_split:
        params.tensor_split = _tensor_split(settings.tensor_split, len(params.tensor_split))
    kinds = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = {
        "auto": kinds.LLAMA_FLASH_ATTN_TYPE_AUTO,
        "on": kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        "off": kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[settings.flash_attn]
    if settings.mlock == "on":
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP_MLOCK
    params.endpoint_metrics = True
    # The library cannot be had without its own HTTP server: local, one thread, and a key that nobody knows.
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_threads_http = 1
    params.api_keys = [secrets.token_hex(32)]
    params.ui = False
    params.endpoint_slots = False
    params.sse_ping_interval = -1
    params.verbosity = 1
    return params


def _cpus() -> int:
    """Those this process may use; the library's own default is found by its command line only, which is not here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _tensor_split(text: str, devices: int) -> list[float]:
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        raise SettingsError(f"bad setting tensor_split={text!r}: numbers separated by commas") from None
    if len(shares) > devices or min(shares) < 0:
        raise SettingsError(f"bad setting tensor_split={text!r}: at most {devices} shares, none below 0")
    return shares + [0.0] * (devices - len(shares))
