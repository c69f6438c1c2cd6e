"""Bringing vLLM up in this process: its arguments from our settings, its engine, its serving layer without a socket."""

from __future__ import annotations

import asyncio
import multiprocessing
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from infra.settings import Settings, SettingsError, set_environment
from workers.engines.vllm_revision import tokenizer_hash, weights_hash
from workers.engines.vllm_tie import Tie

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # Its children get their configuration by pickle, and inherit no thread of ours.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
}

NO_HOST = "none.invalid"
"""vLLM takes an empty list of hosts for all hosts. Requests need not come through an edge, so it must not fetch what
they name from where it stands; an operator who lists hosts as an `engine_arg` overrides it."""


WHOLE_PREFILL = "--no-enable-chunked-prefill"
"""On CPUs vLLM 0.32 dies of a prompt that is prefilled in chunks and has a seed, as all have here that sample: it turns
the random generator back after each chunk, and that of a CPU cannot be."""


class Words(msgspec.Struct, frozen=True):
    """vLLM's command line of our settings, and the adapters in it."""

    arguments: list[str]
    adapters: list[str]


def words_of(settings: Settings) -> Words:
    """What a user of `vllm serve` would have typed. Raises SettingsError."""
    arguments = ["--model", settings.model, "--served-model-name", settings.model]
    arguments += ["--allowed-media-domains", NO_HOST]
    for flag, value in (
        ("--max-model-len", settings.max_model_len),
        ("--max-num-seqs", settings.max_num_seqs),
        ("--dtype", settings.dtype),
        ("--quantization", settings.quantization),
        ("--gpu-memory-utilization", settings.gpu_memory_utilization),
        ("--tensor-parallel-size", settings.tensor_parallel_size),
    ):
        if value:
            arguments += [flag, str(value)]
    for word in _split("engine_arg", settings.engine_arg):
        name, equals, value = word.partition("=")
        arguments += [f"--{name.lstrip('-')}", value] if equals else [f"--{name.lstrip('-')}"]
    adapters = []
    lora = _split("lora", settings.lora)
    for word in lora:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise SettingsError(f"bad setting lora={settings.lora!r}: expected name=path, not {word!r}")
        adapters.append(name)
    if lora:
        arguments += ["--enable-lora", "--lora-modules", *lora]
    return Words(arguments, adapters)


class Started(msgspec.Struct, frozen=True):
    """vLLM's engine, its configuration, and which of its runners may be told what to force."""

    engine: Any
    config: Any
    arguments: Any
    version: str
    can_force: bool
    is_cpu: bool
    folder: Path


class Loader:
    """Loads the engine, in a thread that then lives as long as it: the kernel ends the engine's processes when the
    thread that started them ends (`vllm_tie`). The event loop stays free to be told to stop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "vllm-loader")
        self._engine: Any = None

    async def load(self, settings: Settings, on_step: Callable[[], None]) -> Started:
        """Returns when the engine is there. Raises what vLLM says against it."""
        started = await asyncio.get_running_loop().run_in_executor(self._thread, _load, settings, on_step)
        self._engine = started.engine
        return started

    async def end(self) -> None:
        """Shuts the engine down, loaded or not."""
        if self._engine is None:
            for child in multiprocessing.active_children():  # it waits for them, and only their end ends that
                child.kill()
        else:
            self._engine.output_handler.cancel()  # or it would report the end of its process as a failure
            await asyncio.to_thread(self._engine.shutdown)
        self._thread.shutdown(wait=False)


async def serving_state(started: Started, client: object) -> Any:
    """vLLM's serving layer around `client`; its parts depend on what the model can do."""
    from starlette.datastructures import State
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state

    tasks = await started.engine.get_supported_tasks()
    state = State()
    await init_app_state(client, state, started.arguments, tasks)
    return state


def revision_of(settings: Settings, started: Started) -> str:
    """Changes with whatever changes the output: weights, adapters, arguments, vLLM itself."""
    config = started.config.model_config
    told = [started.version, str(config.dtype), str(config.quantization), str(config.max_model_len)]
    # The name alone says nothing: the same folder may lie elsewhere on another host.
    told += sorted(_split("engine_arg", settings.engine_arg))
    adapters = {
        name: Path(path) for name, _, path in (w.partition("=") for w in _split("lora", settings.lora))
    }
    return weights_hash(started.folder, adapters, told)


def tokenizer_of(started: Started) -> str:
    """Changes with the ids of texts."""
    return tokenizer_hash(started.folder)


def _load(settings: Settings, on_step: Callable[[], None]) -> Started:
    set_environment({**ENVIRONMENT, "VLLM_LOGGING_LEVEL": settings.log_level.upper()})
    if Path(settings.model).is_dir():
        set_environment({"HF_HUB_OFFLINE": "1"})  # what was named is all here
    import vllm
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    is_cpu = current_platform.is_cpu()
    words = words_of(settings).arguments
    more = ["--disable-log-stats"]
    if is_cpu and not any("chunked-prefill" in word for word in words):
        more.append(WHOLE_PREFILL)
    try:
        arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([*words, *more])
        validate_parsed_serve_args(arguments)
    except SystemExit:
        raise SettingsError(f"vLLM does not take these arguments: {shlex.join(words)}") from None
    config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
    can_force = config.model_config.runner_type == "generate" and config.speculative_config is None
    if can_force:
        from workers.engines import vllm_prefix

        second = config.use_v2_model_runner
        forcing = vllm_prefix.ForcedPrefixRows if second else vllm_prefix.ForcedPrefix
        config.model_config.logits_processors = [*(config.model_config.logits_processors or []), forcing]
    object.__setattr__(config, "penstock_tie", Tie())  # it has no place for what is not vLLM's
    engine = AsyncLLM.from_vllm_config(config, stat_loggers=[_step_counter(on_step)], disable_log_stats=True)
    return Started(engine, config, arguments, str(vllm.__version__), can_force, is_cpu, _folder(config))


def _step_counter(on_step: Callable[[], None]) -> Callable[[object, int], object]:
    from vllm.v1.metrics.loggers import StatLoggerBase

    class StepCounter(StatLoggerBase):  # type: ignore[misc]
        """Told of every step of the engine, the ones of a long prefill that makes no token included."""

        def __init__(self, vllm_config: object, engine_index: int = 0) -> None:
            pass

        def record(self, *_args: object, **_more: object) -> None:
            on_step()

        def log_engine_initialized(self) -> None:
            pass

    return StepCounter


def _folder(config: Any) -> Path:
    """Where the model's files are on this machine."""
    model = config.model_config
    if Path(model.model).is_dir():
        return Path(model.model)
    hub: Any = import_module("huggingface_hub")
    return Path(hub.snapshot_download(model.model, revision=model.revision, local_files_only=True))


def _split(name: str, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise SettingsError(f"bad setting {name}={value!r}: {error}") from None
