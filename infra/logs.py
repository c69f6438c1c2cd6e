"""Structured logs: one event per line, JSON off a terminal and pretty on one, UTC, to stderr.

Logs of libraries (uvicorn, nats) that use the standard `logging` module pass through the same renderer, so a
process speaks with one voice. Every line carries the `role` and `id` of its process; one about a request names it,
`log.info("leased", tenant=tenant, rid=rid, seq=seq)`, and gets the `trace_id` of one that is sampled. Never log
prompts, tokens, credentials, ack subjects, or what an engine or a client said in its own words.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from infra.log_traces import log_traces
from infra.settings import Settings

TALKATIVE = ("httpx", "httpcore", "python_multipart")
"""Libraries that log every call, or at debug the headers and bodies that pass through: our own lines say enough."""

RequestLog = FilteringBoundLogger
"""A logger that is bound to the `tenant` and `rid` of a request."""


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger=name`. Cheap; may be made before `configure_logs`."""
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


def configure_logs(settings: Settings, *, role: str, process_id: str) -> None:
    """Sets up logging of this process; call once, before the first line."""
    pretty = is_pretty(settings)
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        log_traces(settings.trace_sample_ratio),
        *(_pretty_fields() if pretty else _json_fields(role, process_id)),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_pretty_renderers() if pretty else _json_renderers()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def is_pretty(settings: Settings) -> bool:
    """Whether logs are for a human: asked for, or by default on a terminal."""
    return settings.log_format == "pretty" or (settings.log_format == "auto" and sys.stderr.isatty())


class _Identity:
    """Adds who is speaking; a line that names another `role` or `id` (of a child) keeps it."""

    def __init__(self, role: str, process_id: str) -> None:
        self._fields = {"role": role, "id": process_id}

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        return {**self._fields, **event}


def _json_fields(role: str, process_id: str) -> list[Processor]:
    return [structlog.processors.TimeStamper(fmt="iso", utc=True), _Identity(role, process_id)]


def _json_renderers() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _pretty_fields() -> list[Processor]:
    """On a terminal one knows what one started, and `up` puts the name in front of each line."""
    return [structlog.processors.TimeStamper(fmt="%H:%M:%SZ", utc=True)]


def _pretty_renderers() -> list[Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=True, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    ]
