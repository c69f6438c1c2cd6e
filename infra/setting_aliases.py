"""Names of environment variables that other servers of models read, and what they mean here.

They hold below `PENSTOCK_*` and above `penstock.toml`; one that is empty is not set. Some are so common that they may
be meant for another program, so `penstock up` says which it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit


class Alias(NamedTuple):
    """The setting, and how the variable's text becomes the setting's. What cannot be converted is left as it is: the
    setting refuses it, under the variable's name."""

    setting: str
    convert: Callable[[str], str] = lambda text: text


class Taken(NamedTuple):
    """A setting's value from a variable: as it is written there, and as the setting takes it."""

    variable: str
    written: str
    value: str


def _milliseconds(text: str) -> str:
    try:
        return f"{float(text) * 1000:g}"
    except ValueError:
        return text


def _api_root(text: str) -> str:
    """A server's address without a path means its API."""
    return f"{text.rstrip('/')}/v1" if urlsplit(text).path in ("", "/") else text


def _traces_of(text: str) -> str:
    """A collector's address, as OpenTelemetry's specification has it: traces go to a path under it."""
    return f"{text.rstrip('/')}/v1/traces"


ALIASES: dict[str, Alias] = {
    "MAX_ACTIVE": Alias("slots"),
    "MAX_CONCURRENT_REQUESTS": Alias("slots"),
    "QUEUE_MODE": Alias("queue_mode"),
    "QUEUE_MAX": Alias("queue_max"),
    "QUEUE_MAX_DEPTH": Alias("queue_max"),
    "QUEUE_TIMEOUT_S": Alias("queue_timeout_s"),
    "REQUEST_TIMEOUT_S": Alias("request_timeout_s"),
    "REQUEST_TIMEOUT_SECONDS": Alias("request_timeout_s"),
    "SHUTDOWN_TIMEOUT_SECONDS": Alias("drain_timeout_s"),
    "GATEWAY_API_KEY": Alias("api_keys"),
    "RATE_LIMIT_REQUESTS": Alias("rate_requests_max"),
    "RATE_LIMIT_WINDOW_SECONDS": Alias("rate_window_s"),
    "BATCH_MAX_SIZE": Alias("batch_size_max"),
    "MAX_BATCH_SIZE": Alias("batch_size_max"),
    "BATCH_TIMEOUT": Alias("batch_window_ms"),
    "BATCH_WINDOW_MS": Alias("batch_window_ms"),
    "VLLM_BASE_URL": Alias("upstream", _api_root),
    "MODEL_PATH": Alias("model"),
    "MODEL_NAME": Alias("model"),
    "MM_PROJECT_PATH": Alias("mmproj"),
    "GPU_LAYERS": Alias("n_gpu_layers"),
    "GPU_SPLIT": Alias("tensor_split"),
    "MAX_MODEL_LEN": Alias("max_model_len"),
    "MAX_NUM_SEQS": Alias("max_num_seqs"),
    "DTYPE": Alias("dtype"),
    "QUANTIZATION": Alias("quantization"),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": Alias("otlp_endpoint"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": Alias("otlp_endpoint", _traces_of),
    "OTEL_EXPORTER_OTLP_HEADERS": Alias("otlp_headers"),
    "MOCK_TOKEN_DELAY_SECONDS": Alias("itl_ms", _milliseconds),
}
"""Of two variables for one setting the first one here holds."""


def taken_from(environment: Mapping[str, str]) -> dict[str, Taken]:
    """The settings that the variables set, by name."""
    taken: dict[str, Taken] = {}
    for variable, alias in ALIASES.items():
        written = environment.get(variable, "")
        if written and alias.setting not in taken:
            taken[alias.setting] = Taken(variable, written, alias.convert(written))
    return taken
