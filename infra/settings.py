"""Every setting of every process: one flat, frozen struct, and the only place that reads the environment.

Precedence: command line > `PENSTOCK_*` environment > names of other servers there (`infra.setting_aliases`) >
`penstock.toml` in the working directory > defaults. An unknown or bad value stops the process at start with a
`SettingsError` that names the setting, the value and where it came from: a typo must never run with a default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from annotated_types import Gt, Le
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from infra.operating_settings import OperatingSettings
from infra.setting_aliases import Taken, taken_from
from infra.setting_types import GIB, KIB, MIB, Bytes, Milliseconds, Port, Processes, Seconds

ENV_PREFIX = "PENSTOCK_"
TOML_FILE = "penstock.toml"
REDACTED = "***"


class SettingsError(Exception):
    """A setting is unknown or has a bad value.

    The message names it, its value and its source; processes exit with 2.
    """


class Settings(OperatingSettings):
    """All settings, with their units last.

    Construct through `load_settings`, which also reports unknown names.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        toml_file=TOML_FILE,
        frozen=True,
        extra="forbid",
        # `model`-prefixed names are ours to use: "model" is a word of the glossary.
        protected_namespaces=(),
    )

    nats_url: str = Field(
        "nats://127.0.0.1:4222",
        repr=False,  # may hold credentials
        pattern=r"^(nats|tls|wss?)://[^,\s]+(,(nats|tls|wss?)://[^,\s]+)*$",
        description="Broker to connect to. If set, `up` uses that broker instead of starting its own.",
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address the edges listen on.")
    port: Port = Field(8000, description="HTTP port shared by all edges; 0 picks a free one.")
    edges: Processes = Field(1, description="Edge processes started by `up`.")
    workers: Processes = Field(1, description="Worker processes started by `up`.")
    schedulers: Processes = Field(
        1, description="Scheduler processes started by `up`; one leads, the others stand by."
    )
    store_dir: Path = Field(
        Path(".penstock"), description="Directory of the embedded broker's data and of the state file."
    )
    broker_port: Port = Field(4222, description="Client port of the embedded broker; 0 picks a free one.")
    broker_monitor_port: Port = Field(
        0, description="Monitoring port of the embedded broker; 0 picks a free one."
    )
    broker_profile: Literal["embedded", "durable", "cluster"] = Field(
        "embedded",
        description="What the broker promises: `embedded` survives kill -9, `durable` also a power cut, "
        "`cluster` is an external three-node cluster.",
    )

    queue_max: int = Field(
        10_000, ge=1, description="Requests queued or running; one more is answered with 429."
    )
    queue_bytes_max: Bytes = Field(GIB, description="Bytes of queued and running requests.")
    output_bytes_max: Bytes = Field(4 * GIB, description="Bytes of all output logs that are kept.")
    result_ttl_s: Seconds = Field(600, description="How long a finished output can still be read.")
    queue_timeout_s: Seconds = Field(
        120, description="A request that no worker took by then ends as expired."
    )
    request_timeout_s: Seconds = Field(
        300, description="A request that has not ended by then ends as expired."
    )
    request_timeout_max_s: Seconds = Field(3600, description="The longest time-out a client may ask for.")
    on_disconnect: str = Field(
        "cancel",
        pattern=r"^(cancel|detach|grace=[0-9]{1,9}(\.[0-9]{1,9})?)$",
        description="What becomes of a request whose last reader left: `cancel`, `detach` (it runs to its end) or "
        "`grace=<seconds>`; clients choose with `X-Penstock-On-Disconnect`.",
    )
    idempotency_grace_s: Seconds = Field(
        30, description="The grace of a request with an `Idempotency-Key`: its client is expected back."
    )
    cold_start: Literal["queue", "reject"] = Field(
        "queue", description="Requests for a known model without a live worker: wait for one, or 503."
    )
    request_bytes_max: Annotated[Bytes, Le(8 * MIB)] = Field(
        7 * MIB,
        description="Largest HTTP body; larger is 413. The broker takes 8 MiB: room for headers.",
    )

    images_max: int = Field(16, ge=0, le=1024, description="Images in one request.")
    image_pixels_max: int = Field(
        7680 * 4320, ge=1, description="Pixels of one image, all frames of an animation together."
    )
    image_bytes_max: Bytes = Field(10_000_000, description="Bytes of one image, sent or fetched.")
    image_hosts: str = Field(
        "",
        pattern=r"^[\s,]*((https?://)?(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?([\s,]+|$))*$",
        description="Hosts whose images are fetched for clients, such as `img.example.com *.example.org`, over https "
        "unless `http://host` is said; empty: none.",
    )

    head_wait_s: Seconds = Field(
        10, description="The HTTP head is held back this long for a status code that tells more."
    )
    keep_alive_s: Seconds = Field(15, description="Comment lines keep a silent stream open at this interval.")
    client_buffer_bytes_max: Bytes = Field(
        256 * KIB, description="Unsent bytes after which a slow reader is paused; it goes on from the log."
    )
    edge_answers_max: int = Field(
        10_000, ge=1, description="Answers open at one edge at the same time; one more is 503."
    )
    edge_pending_max: int = Field(
        1000, ge=1, description="Requests one edge holds while the broker is away; one more is 503."
    )
    edge_interval_s: Seconds = Field(1, description="An edge tells who reads at it, at this interval.")
    edge_silent_s: Seconds = Field(
        20,
        description="Silence that makes an edge dead: its clients count as disconnected. "
        "Long enough for one that is only paused.",
    )
    publish_timeout_s: Seconds = Field(5, description="How long an edge tries to get a request stored.")
    model_seen_s: Seconds = Field(60, description="A model without a worker is still queued for this long.")

    ack_wait_s: Seconds = Field(
        10, description="Broker redelivers a request that nobody touched for this long."
    )
    pull_interval_s: Seconds = Field(
        0.5, description="A worker repeats its pull at this interval: the heartbeat."
    )
    offer_timeout_s: Seconds = Field(
        0.2, description="A batch that a worker does not answer by then is offered elsewhere."
    )
    worker_suspect_s: Seconds = Field(
        0.3, description="Silence after which a worker is probed; refused twice, it is dead."
    )
    worker_silent_s: Seconds = Field(3, description="Silence that alone makes a worker dead.")
    leader_ttl_s: Seconds = Field(3, description="A scheduler leads for this long after its last renewal.")
    leader_interval_s: Seconds = Field(
        0.5, description="The leader renews and announces itself at this interval."
    )
    window_lead: int = Field(
        8, ge=0, description="Requests held beyond the free slots, so that none waits for a pull."
    )
    window_bytes_max: Bytes = Field(64 * MIB, description="Bytes of requests a scheduler holds.")
    batch_window_ms: Milliseconds = Field(
        0, description="Wait to fill a batch, for engines that batch statically."
    )
    batch_size_max: int = Field(64, ge=1, le=1024, description="Requests in one batch.")
    batch_bytes_max: Annotated[Bytes, Le(8_000_000)] = Field(1_000_000, description="Bytes of one batch.")
    alone_wait_s: Seconds = Field(
        10, description="A request that brought an engine down waits this long for a worker of its own."
    )
    strikes_max: int = Field(3, ge=1, description="Attempts without a new token that make a request poison.")
    attempts_max: int = Field(20, ge=1, description="Attempts of any kind that make a request poison.")

    dead_ttl_s: Annotated[float, Gt(0), Le(366 * 86_400)] = Field(
        7 * 86_400, description="How long a poisoned request is kept for a look or a redrive."
    )
    dead_bytes_max: Bytes = Field(GIB, description="Bytes of poisoned requests that are kept.")

    append_interval_s: Seconds = Field(
        0.25, description="Appends of a request that nobody streams, at this interval."
    )
    append_bytes_max: Bytes = Field(64 * KIB, description="Largest single append to an output log.")
    append_timeout_s: Seconds = Field(
        1.0, description="An unanswered append is sent again, byte for byte, after this."
    )
    step_s_max: Seconds = Field(10, description="An engine without a step for this long counts as hung.")

    drain: Literal["finish", "handoff"] = Field(
        "finish",
        description="A stopping worker lets requests finish, or hands them to others within one step.",
    )
    drain_timeout_s: Seconds = Field(30, description="Time a stopping process has to finish what it runs.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line that is logged."
    )
    log_format: Literal["auto", "json", "pretty"] = Field(
        "auto", description="`auto` is pretty on a terminal, else JSON."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        aliased = {name: taken.value for name, taken in taken_from(os.environ).items()}
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, aliased),
            TomlConfigSettingsSource(settings_cls),
        )

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        """Pairs of settings that only make sense in one order."""
        for smaller, larger in _ORDERED_PAIRS:
            if getattr(self, smaller) > getattr(self, larger):
                raise ValueError(
                    f"{smaller} {getattr(self, smaller)} must not be above {larger} {getattr(self, larger)}"
                )
        return self


# The heartbeat must come before suspicion, suspicion before a verdict; a leader must renew before it expires;
# no default may be outside its own limit; one append must fit the message limit that batches obey.
_ORDERED_PAIRS = (
    ("pull_interval_s", "worker_silent_s"),
    ("worker_suspect_s", "worker_silent_s"),
    ("leader_interval_s", "leader_ttl_s"),
    ("request_timeout_s", "request_timeout_max_s"),
    ("queue_timeout_s", "request_timeout_max_s"),
    ("append_bytes_max", "batch_bytes_max"),
    ("strikes_max", "attempts_max"),
    ("edge_interval_s", "edge_silent_s"),
)


class Explained(NamedTuple):
    """One setting as a human reads it: secrets are redacted, `source` is where the value came from."""

    name: str
    value: str
    source: str


def load_settings(cli: Mapping[str, object] | None = None) -> Settings:
    """Settings from all sources; `cli` maps field names to values (strings are parsed).

    Raises `SettingsError`.
    """
    given = _given(cli or {})
    unknown = [name for name in given if name not in Settings.model_fields]
    if unknown:
        raise SettingsError("; ".join(f"unknown setting {_origin(name, given)}" for name in unknown))
    try:
        return Settings(**dict(cli or {}))  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(dict(detail), given) for detail in error.errors())) from None


def explain(cli: Mapping[str, object] | None = None) -> list[Explained]:
    """Each setting with its value and its source, in the order of declaration, secrets redacted."""
    settings, given = load_settings(cli), _given(cli or {})
    return [
        Explained(name, shown(getattr(settings, name)), given[name].source if name in given else "default")
        for name in Settings.model_fields
    ]


def source_of(name: str, cli: Mapping[str, object] | None = None) -> str:
    """Where the value of a setting comes from:

    "command line", "environment", another server's variable by its name, "penstock.toml" or "default".
    """
    assert name in Settings.model_fields, name
    given = _given(cli or {})
    return given[name].source if name in given else "default"


def aliases_taken(cli: Mapping[str, object] | None = None) -> dict[str, Taken]:
    """The settings whose value comes from a variable of another server."""
    taken = taken_from(os.environ)
    return {name: one for name, one in taken.items() if source_of(name, cli) == one.variable}


class HandedDown(NamedTuple):
    """Settings on their way to a child process: words of its command line, and the whole of its environment."""

    words: list[str]
    environment: dict[str, str]


def hand_down(cli: Mapping[str, str]) -> HandedDown:
    """How a child process gets what this one was given on its command line: in the same way, but what holds credentials
    in its environment. Every user of a machine can read the command lines of all processes."""
    secret = {name: value for name, value in cli.items() if _is_secret(name, value)}
    words = [word for name in cli if name not in secret for word in ("--set", f"{name}={cli[name]}")]
    variables = {f"{ENV_PREFIX}{name.upper()}": value for name, value in secret.items()}
    # The same variable in other letters would be a second value of the setting.
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in variables}
    return HandedDown(words, inherited | variables)


def foreign_variable(name: str) -> str | None:
    """An environment variable that other programs read and this one must not contradict: where their caches are, which
    devices they may use. None where it is not set."""
    return os.environ.get(name)


def set_environment(variables: Mapping[str, str]) -> None:
    """Sets variables of this process and its children, for libraries that can be told in no other way."""
    os.environ.update(variables)


def redact(text: str) -> str:
    """Text with URLs in it, without their user names, passwords and tokens."""
    return re.sub(r"(?<=://)[^/\s]*@", f"{REDACTED}@", text)


def shown(value: object) -> str:
    """A setting's value as it may be printed."""
    match value:
        case SecretStr():
            return REDACTED if value.get_secret_value() else ""
        case float():
            return f"{value:g}"
        case _:
            return redact(str(value))


class _Given(NamedTuple):
    value: object
    source: str


def _given(cli: Mapping[str, object]) -> dict[str, _Given]:
    """All values that were given somewhere, by lower-case name; the strongest source wins."""
    given = {name: _Given(value, TOML_FILE) for name, value in _toml().items()}
    given |= {name: _Given(taken.written, taken.variable) for name, taken in taken_from(os.environ).items()}
    for variable, value in os.environ.items():
        if variable.upper().startswith(ENV_PREFIX):
            given[variable[len(ENV_PREFIX) :].lower()] = _Given(value, "environment")
    return given | {name: _Given(value, "command line") for name, value in cli.items()}


def _toml() -> dict[str, Any]:
    try:
        return tomllib.loads(Path(TOML_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read {TOML_FILE}: {error}") from None


def _origin(name: str, given: Mapping[str, _Given]) -> str:
    """A given value as its author wrote it: `PENSTOCK_PORT='x'` (environment)."""
    value, source = given[name]
    value = REDACTED if _is_secret(name, "") else value
    match source:
        case "environment":
            written = f"{ENV_PREFIX}{name.upper()}={value!r}"
        case "command line":
            written = f"--{name.replace('_', '-')} {value}"
        case str() if source == TOML_FILE:
            written = f"{name} = {value!r}"
        case variable:
            written, source = f"{variable}={value!r}", "environment"
    return f"{redact(written)} ({source})"


def _sentence(detail: Mapping[str, Any], given: Mapping[str, _Given]) -> str:
    """One validation error as a sentence; one about a pair of settings names those that were given."""
    reason = str(detail["msg"]).removeprefix("Value error, ")
    names = [str(detail["loc"][0])] if detail["loc"] else [name for name in given if name in reason.split()]
    return f"bad setting {', '.join(_origin(name, given) for name in names)}: {reason}"


def _is_secret(name: str, value: str) -> bool:
    """Whether the setting is one, or this value is a URL with a password in it."""
    field = Settings.model_fields.get(name)
    return (field is not None and field.annotation is SecretStr) or redact(value) != value
