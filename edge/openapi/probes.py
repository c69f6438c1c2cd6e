"""What is answered beside the table of endpoints: probes and metrics, as an OpenAPI document tells of them. Pure."""

from __future__ import annotations

from typing import NamedTuple

from edge.openapi.answers import Alive, Ready
from schemas.health import Health


class Probe(NamedTuple):
    """`gives` is the body's type, whatever the status; None: text."""

    path: str
    summary: str
    gives: object | None
    statuses: dict[str, str]


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
    Probe("/metrics", "Measurements, as Prometheus reads them", None, {"200": "One text for all."}),
)
