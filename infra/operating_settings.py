"""Settings of who may connect to the broker, and of what can be seen of a running system."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import Field, SecretStr

from infra.api_settings import ApiSettings
from infra.setting_types import MIB, Port

Share = Annotated[float, Ge(0), Le(1)]


class OperatingSettings(ApiSettings):
    """The part of the settings that operators care for: access to the broker, traces, metrics."""

    nats_nkey_file: str = Field(
        "",
        description="File with the seed of the nkey that a process shows the broker; `{role}` in it is the process's "
        "own: edge, scheduler, worker, or admin for commands. Empty: none.",
    )
    nats_ca_file: str = Field(
        "",
        description="Certificates that the broker's must be signed by; empty: those of the machine. With it, or with "
        "`tls://`, nothing is said in the clear.",
    )

    trace_sample_ratio: Share = Field(
        1.0,
        description="Share of requests that are traced; one that comes with a `traceparent` is traced if that says so.",
    )
    trace_store_bytes_max: Annotated[int, Ge(0)] = Field(
        64 * MIB,
        description="Bytes of the newest traces kept under `store_dir`, for `penstock trace`; 0: none are kept.",
    )
    trace_content: bool = Field(
        False,
        description="Traces hold prompts and answers. Off: nothing of what was said leaves this system.",
    )
    trace_broker: bool = Field(
        False,
        description="The broker's own tracing of the messages of traced requests: a span for each server that one "
        "passes, with when it came, was stored and went out; costs the broker one more message for each server.",
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Where traces go by OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; empty: nowhere.",
    )
    otlp_headers: SecretStr = Field(
        SecretStr(""), description="Headers sent with them, as `name=value,name=value`."
    )

    edge_metrics_port: Port = Field(
        0,
        description="An edge shows its own metrics alone on the first free port from this one on; 0: nowhere, but a "
        "free one where `up` starts it.",
    )
    scheduler_metrics_port: Port = Field(
        0, description="A scheduler shows its metrics on the first free port from this one on; 0: likewise."
    )
    worker_metrics_port: Port = Field(0, description="A worker's metrics, likewise.")
    span_queue_max: int = Field(
        2048,
        ge=1,
        description="Spans that wait to be sent or kept; what comes beyond them is dropped and counted.",
    )

    ready_file: str = Field(
        "",
        description="File that exists while this process serves, and is touched every 2 s; for a container's health "
        "check, one file for each process; empty: none.",
    )
