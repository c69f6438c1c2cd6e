"""Settings of what workers run models on; each engine reads its own. A zero or an empty text leaves a thing to it."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from infra.setting_types import FaultAt, Milliseconds

REPEATABLE = ("engine_arg", "lora")
"""Settings of several words, separated as in a shell; an option of that name may be given once for each word."""


class EngineSettings(BaseSettings):
    """The part of the settings that only workers use."""

    engine: str = Field(
        "auto",
        min_length=1,
        description="What workers run the model on: `vllm`, `llamacpp`, `openai`, `simulator`; "
        "`auto` is what fits the model and is installed.",
    )
    model: str = Field(
        "",
        max_length=256,
        description="Model the workers serve: a `.gguf` file, a model's folder, an id of Hugging Face, or a name that "
        "the upstream knows; empty: the one that is there.",
    )
    slots: int = Field(
        0, ge=0, le=65_536, description="Requests one worker runs at the same time; 0: as the engine says."
    )
    max_tokens_default: int = Field(
        0, ge=0, description="Output tokens of a request that names no limit; 0: as the engine says."
    )
    engine_arg: str = Field(
        "",
        description="Further arguments of vLLM as `name=value`, several separated by spaces.",
    )

    max_model_len: int = Field(0, ge=0, description="vLLM: prompt and output tokens of one request.")
    max_num_seqs: int = Field(0, ge=0, description="vLLM: sequences in one batch; also its slots.")
    dtype: str = Field("auto", min_length=1, description="vLLM: data type of weights and activations.")
    quantization: str = Field("", description="vLLM: method the weights are quantized with.")
    gpu_memory_utilization: float = Field(
        0.0, ge=0, le=1, description="vLLM: share of the GPU's memory that it takes."
    )
    tensor_parallel_size: int = Field(1, ge=1, le=1024, description="vLLM: GPUs one model is split over.")
    lora: str = Field("", description="vLLM: adapters as `name=path`, several separated by spaces.")

    ctx_size: int = Field(0, ge=0, description="llama.cpp: prompt and output tokens of one request.")
    parallel: int = Field(4, ge=1, le=1024, description="llama.cpp: requests in one batch; also its slots.")
    threads: int = Field(0, ge=0, le=1024, description="llama.cpp: CPU threads.")
    n_gpu_layers: int = Field(-1, ge=-1, description="llama.cpp: layers on the GPU; -1: as many as fit.")
    tensor_split: str = Field("", description="llama.cpp: share of each GPU, such as `3,1`.")
    flash_attn: Literal["auto", "on", "off"] = Field("auto", description="llama.cpp: flash attention.")
    mlock: Literal["on", "off"] = Field("off", description="llama.cpp: keep the model in RAM.")
    mmproj: str = Field("", description="llama.cpp: projector file of a model that sees images.")

    upstream: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        repr=False,  # may hold credentials
        description="OpenAI-compatible server that the engine `openai` passes requests on to.",
    )
    upstream_api_key: SecretStr = Field(SecretStr(""), description="Key for that server.")
    upstream_model: str = Field("", max_length=256, description="The model's name there, if it is another.")
    upstream_parallel: int = Field(
        64, ge=1, le=65_536, description="Requests that server is given at the same time; also the slots."
    )

    ttft_ms: Milliseconds = Field(20.0, description="Simulator: time to the first token.")
    itl_ms: Milliseconds = Field(20.0, description="Simulator: time between tokens.")
    prefill_tps: float = Field(
        0.0, ge=0, description="Simulator: prompt tokens read per second; 0 is instant."
    )
    context_tokens_max: Annotated[int, Ge(1)] = Field(
        32_768, description="Simulator: prompt and output tokens of one request."
    )
    die_at_token: FaultAt = Field(
        -1, description="Simulator fault: exit the process at this token; -1 never."
    )
    hang_at_token: FaultAt = Field(-1, description="Simulator fault: stop stepping at this token; -1 never.")
    raise_at_token: FaultAt = Field(-1, description="Simulator fault: raise at this token; -1 never.")
    oom_at_token: FaultAt = Field(
        -1, description="Simulator fault: run out of memory at this token; -1 never."
    )
    slow_factor: float = Field(
        1.0, gt=0, le=1000, description="Simulator fault: stretch every delay by this factor."
    )
