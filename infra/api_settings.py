"""Settings of who may ask for what, and how much. A zero or an empty text is no limit."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field, SecretStr

from infra.engine_settings import EngineSettings
from infra.setting_types import GIB, KIB, MIB, Bytes, Seconds
from schemas.streams import RATE_WINDOW_S_MAX

Limit = Annotated[int, Ge(0)]


class ApiSettings(EngineSettings):
    """The part of the settings that only edges and the leader use."""

    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Keys that may ask, all of one tenant, separated by spaces; with these or a key file, "
        "requests without one are 401.",
    )
    keys_file: str = Field(
        "", description="File of `penstock keys`, read again when it changes; empty: there is none."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses and networks whose `X-Forwarded-For` is believed, separated by spaces.",
    )
    cors_origins: str = Field(
        "", description="Origins whose pages may ask, separated by spaces; `*` is any. Empty: none."
    )
    rate_requests_max: Limit = Field(
        0,
        description="Requests of one key, or of one address without keys, in `rate_window_s`, over all edges.",
    )
    rate_tokens_max: Limit = Field(0, description="Tokens, of prompts and outputs, likewise.")
    rate_window_s: int = Field(
        60, ge=1, le=RATE_WINDOW_S_MAX, description="The window of both, in whole seconds; it slides."
    )
    streams_per_key_max: Limit = Field(
        0, description="Answers that one key, or address, may have open at the same time, over all edges."
    )
    body_timeout_s: Seconds = Field(
        30, description="A request whose headers, and after them whose body, are not there by then is 408."
    )
    header_bytes_max: Bytes = Field(32 * KIB, description="Bytes of a request's headers; more is 431.")
    connections_max: int = Field(
        16_384, ge=1, description="Connections open at one edge at the same time; one more is 503."
    )

    queue_mode: Literal["queue", "reject"] = Field(
        "queue",
        description="Without a free slot a request waits in the queue, or is answered with 429 at once.",
    )
    tenant_queue_max: Limit = Field(
        0, description="Requests of one tenant, queued or running; one more is 429."
    )
    model_queue_max: Limit = Field(
        0, description="Requests for one model, queued or running; one more is 429."
    )

    responses_bytes_max: Bytes = Field(
        GIB,
        description="Bytes of what was asked for in responses that are kept (`store`); a new one more is 503.",
    )

    files_bytes_max: Bytes = Field(GIB, description="Bytes of all files.")
    tenant_store_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="With a key file, the share of `files_bytes_max`, and of `responses_bytes_max`, that one tenant "
        "may fill; more is 429. 1: all.",
    )
    file_bytes_max: Bytes = Field(64 * MIB, description="Bytes of one uploaded file.")
    file_ttl_s: Annotated[float, Gt(0), Le(366 * 86_400)] = Field(
        7 * 86_400, description="How long files and batches are kept."
    )
    batch_inflight_max: int = Field(
        64, ge=1, le=10_000, description="Requests of one batch that are queued or running at the same time."
    )

    @property
    def store_share(self) -> float:
        """`tenant_store_share`, where there can be more than one tenant."""
        return self.tenant_store_share if self.keys_file else 1.0
