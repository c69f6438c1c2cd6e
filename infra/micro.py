"""A process as a NATS micro service: answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` as the NATS tools ask them.

The protocol is that of NATS's ADR-32; every instance answers for itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from infra.bus import Bus, Subscription
from infra.metrics.process import release
from schemas import subjects

_TYPES = {verb: f"io.nats.micro.v1.{verb.lower()}_response" for verb in ("PING", "INFO", "STATS")}


@dataclass
class Endpoint:
    """What a service answers, at `subject`; empty `queue_group`: every instance answers. Whoever serves it says `count`
    for each request."""

    name: str
    subject: str
    queue_group: str = ""
    requests: int = field(default=0, init=False)
    errors: int = field(default=0, init=False)
    last_error: str = field(default="", init=False)
    processing_ns: int = field(default=0, init=False)

    def count(self, took_s: float, error: str = "") -> None:
        """A request was answered, in so many seconds; `error`: with one, or not as it was meant."""
        self.requests += 1
        self.processing_ns += int(took_s * 1e9)
        if error:
            self.errors += 1
            self.last_error = error


class Micro:
    """The service `penstock-<role>` with the instance `process_id`."""

    def __init__(self, bus: Bus, role: str, process_id: str, *endpoints: Endpoint) -> None:
        self._bus = bus
        self._identity: dict[str, Any] = {
            "name": f"penstock-{role}",
            "id": process_id,
            "version": release(),
            "metadata": {"role": role},
        }
        self._description = f"Penstock's {role}"
        self._endpoints = endpoints
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._subscriptions: list[Subscription] = []

    def start(self) -> None:
        """Answers from now on, to who asks all services, those of this name, or this instance."""
        name, process_id = self._identity["name"], self._identity["id"]
        for verb in _TYPES:
            for whom in ((), (name,), (name, process_id)):
                subject = subjects.micro(verb, *whom)
                self._subscriptions.append(self._bus.subscribe(subject, self._on_request))

    def close(self) -> None:
        """Answers no more."""
        while self._subscriptions:
            self._subscriptions.pop().close()

    def _on_request(self, subject: str, reply: str, _headers: bytes, _payload: bytes) -> None:
        if reply:
            self._bus.publish(reply, msgspec.json.encode(self._answer(subjects.micro_verb(subject))))

    def _answer(self, verb: str) -> dict[str, Any]:
        answer = {"type": _TYPES[verb], **self._identity}
        match verb:
            case "INFO":
                answer["description"] = self._description
                answer["endpoints"] = [_info(endpoint) for endpoint in self._endpoints]
            case "STATS":
                answer["started"] = self._started
                answer["endpoints"] = [_stats(endpoint) for endpoint in self._endpoints]
        return answer


def _info(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "subject": endpoint.subject,
        "queue_group": endpoint.queue_group,
        "metadata": {},
    }


def _stats(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "subject": endpoint.subject,
        "queue_group": endpoint.queue_group,
        "num_requests": endpoint.requests,
        "num_errors": endpoint.errors,
        "last_error": endpoint.last_error,
        "processing_time": endpoint.processing_ns,
        "average_processing_time": endpoint.processing_ns // max(1, endpoint.requests),
        "data": None,
    }
