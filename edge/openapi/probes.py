"""What is answered beside the table of endpoints: probes and metrics, as an OpenAPI document tells of them. Pure."""

from __future__ import annotations

from typing import NamedTuple

from edge.compat.numbers import Numbers
from edge.compat.styles import EVENT_ERRORS
from edge.errors import OPENAI_ERRORS, ErrorStyle
from edge.openapi.answers import Alive, Ready
from schemas.health import Health


class Probe(NamedTuple):
    """`gives` is the body's type, whatever the status; `text`: it is given only to who accepts JSON, and a text to
    everybody else. `problems` are told in the style `errors`."""

    path: str
    summary: str
    gives: object
    statuses: dict[str, str]
    text: bool = False
    problems: tuple[str, ...] = ()
    errors: ErrorStyle = OPENAI_ERRORS


PROBES = (
    Probe("/livez", "Whether the process answers", Alive, {"200": "It does."}),
    Probe(
        "/readyz",
        "Whether a request could be run now",
        Ready,
        {"200": "It could.", "503": "It could not."},
    ),
    Probe(
        "/health",
        "How the system is",
        Health,
        {"200": "Requests are taken.", "503": "The system starts, or its broker is away."},
    ),
    Probe(
        "/healthz",
        "Whether the broker is reached",
        Alive,
        {"200": "It is."},
        problems=("broker_away",),
        errors=EVENT_ERRORS,
    ),
    Probe("/metrics", "Measurements", Numbers, {"200": "As Prometheus reads them, or as JSON."}, text=True),
)
