"""The engines there are, by the name that the `engine` setting takes. Nothing else knows an engine by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from infra.settings import Settings, SettingsError
from workers.engines.base import Engine
from workers.engines.simulator import Faults, Simulator, SimulatorOptions

SIMULATED_TOKENS = 256
"""Output of the simulator for a request that names no limit: long enough to look like an answer."""


def make_engine(settings: Settings) -> Engine:
    """The engine that the settings ask for. Raises SettingsError if there is none of that name."""
    factory = ENGINES.get(settings.engine)
    if factory is None:
        raise SettingsError(f"bad setting engine={settings.engine!r}: one of {', '.join(sorted(ENGINES))}")
    return factory(settings)


def _simulator(settings: Settings) -> Engine:
    faults = Faults(
        die_at_token=settings.die_at_token,
        hang_at_token=settings.hang_at_token,
        raise_at_token=settings.raise_at_token,
        oom_at_token=settings.oom_at_token,
        slow_factor=settings.slow_factor,
    )
    return Simulator(
        SimulatorOptions(
            ttft_ms=settings.ttft_ms,
            itl_ms=settings.itl_ms,
            prefill_tps=settings.prefill_tps,
            context_tokens_max=settings.context_tokens_max,
            max_tokens_default=min(
                settings.max_tokens_default or SIMULATED_TOKENS, settings.context_tokens_max
            ),
            faults=faults,
        )
    )


def _llamacpp(settings: Settings) -> Engine:
    try:
        from workers.engines.llamacpp import LlamaCpp
    except ModuleNotFoundError as error:
        if error.name != "xllamacpp":
            raise
        raise SettingsError(
            "engine=llamacpp needs xllamacpp, which is not installed: `penstock doctor` has the command that gets it"
        ) from None
    return LlamaCpp(settings)


def _openai(settings: Settings) -> Engine:
    from workers.engines.upstream import OpenAIEngine, OpenAIOptions

    if not settings.upstream:
        raise SettingsError("the engine openai needs the setting upstream, such as http://127.0.0.1:8000/v1")
    return OpenAIEngine(
        OpenAIOptions(
            upstream=settings.upstream,
            model=settings.model,
            upstream_model=settings.upstream_model,
            api_key=settings.upstream_api_key.get_secret_value(),
            parallel=settings.upstream_parallel,
            max_tokens_default=settings.max_tokens_default,
        )
    )


def _vllm(settings: Settings) -> Engine:
    if find_spec("vllm") is None:
        raise SettingsError(
            "engine=vllm needs vLLM, which is not installed: `penstock doctor` has the command that gets it"
        )
    from workers.engines.vllm import Vllm

    return Vllm(settings)


ENGINES: dict[str, Callable[[Settings], Engine]] = {
    "llamacpp": _llamacpp,
    "openai": _openai,
    "simulator": _simulator,
    "vllm": _vllm,
}
