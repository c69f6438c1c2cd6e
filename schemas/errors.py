"""The one table of errors a client can meet, and the one tree of errors our own code raises."""

from __future__ import annotations

from typing import NamedTuple


class ErrorRow(NamedTuple):
    """How one kind of failure looks to clients of each dialect.

    `type_` and `code` are OpenAI's; `retry_after` says whether the answer carries `Retry-After`, `is_final` whether it
    says `x-should-retry: false`: the same request will never do better, and clients that retry every 4xx should not.
    """

    status: int
    type_: str
    code: str | None
    anthropic: str
    retry_after: bool = False
    is_final: bool = False


ERRORS: dict[str, ErrorRow] = {
    "bad_request": ErrorRow(400, "invalid_request_error", None, "invalid_request_error"),
    "context_length": ErrorRow(
        400, "invalid_request_error", "context_length_exceeded", "invalid_request_error"
    ),
    "invalid_image": ErrorRow(400, "invalid_request_error", "invalid_image", "invalid_request_error"),
    "image_fetch_failed": ErrorRow(
        400, "invalid_request_error", "failed_to_download_image", "invalid_request_error"
    ),
    "invalid_api_key": ErrorRow(
        401, "invalid_request_error", "invalid_api_key", "authentication_error", is_final=True
    ),
    "not_allowed": ErrorRow(403, "permission_error", "not_allowed", "permission_error", is_final=True),
    "not_found": ErrorRow(404, "invalid_request_error", "not_found", "not_found_error"),
    "previous_response_not_found": ErrorRow(
        400, "invalid_request_error", "previous_response_not_found", "invalid_request_error"
    ),
    "method_not_allowed": ErrorRow(
        405, "invalid_request_error", "method_not_allowed", "invalid_request_error"
    ),
    "model_not_found": ErrorRow(404, "invalid_request_error", "model_not_found", "not_found_error"),
    "too_large": ErrorRow(413, "invalid_request_error", "request_too_large", "request_too_large"),
    "body_timeout": ErrorRow(408, "invalid_request_error", "body_timeout", "timeout_error"),
    "headers_too_large": ErrorRow(
        431, "invalid_request_error", "headers_too_large", "invalid_request_error", is_final=True
    ),
    "thread_unsupported": ErrorRow(
        400, "invalid_request_error", "thread_unsupported_request", "invalid_request_error"
    ),
    "idempotency_mismatch": ErrorRow(
        422, "invalid_request_error", "idempotency_mismatch", "invalid_request_error", is_final=True
    ),
    "queue_full": ErrorRow(429, "rate_limit_exceeded", "queue_full", "overloaded_error", True),
    "rate_limited": ErrorRow(429, "rate_limit_exceeded", "rate_limit_exceeded", "rate_limit_error", True),
    "quota_exceeded": ErrorRow(429, "rate_limit_exceeded", "quota_exceeded", "rate_limit_error", True),
    "no_slot": ErrorRow(429, "rate_limit_exceeded", "no_slot", "overloaded_error", True),
    "too_late": ErrorRow(503, "server_error", "deadline_unreachable", "overloaded_error", True),
    "no_workers": ErrorRow(503, "server_error", "no_workers", "overloaded_error", True),
    "broker_away": ErrorRow(503, "server_error", "broker_away", "overloaded_error", True),
    "edge_full": ErrorRow(503, "server_error", "edge_full", "overloaded_error", True),
    "output_full": ErrorRow(503, "server_error", "output_full", "overloaded_error", True),
    "files_full": ErrorRow(503, "server_error", "files_full", "overloaded_error", True),
    "queue_timeout": ErrorRow(503, "server_error", "queue_timeout", "timeout_error", True),
    "outcome_unknown": ErrorRow(503, "server_error", "outcome_unknown", "api_error", True),
    "draining": ErrorRow(503, "server_error", "draining", "overloaded_error", True),
    "request_timeout": ErrorRow(504, "server_error", "request_timeout", "timeout_error"),
    "engine_error": ErrorRow(502, "server_error", "engine_error", "api_error"),
    "poison": ErrorRow(502, "server_error", "poison", "api_error"),
    "not_continuable": ErrorRow(502, "server_error", "not_continuable", "api_error"),
    "log_lost": ErrorRow(502, "server_error", "log_lost", "api_error"),
    "cancelled": ErrorRow(499, "invalid_request_error", "cancelled", "invalid_request_error"),
    "internal": ErrorRow(500, "server_error", "internal_error", "api_error"),
}
"""Keyed by the reason an END carries or an edge answers with.

499: somebody else cancelled the request while its client waited. A client that left itself is sent nothing.
"""


class PenstockError(Exception):
    """Something went wrong that the caller can act on; each child says how."""


class BrokerAway(PenstockError):
    """The broker did not answer. Nothing is known of what was sent: send the same message again, or say so."""


class BrokerRefused(PenstockError):
    """The broker answered with an error that is not part of the protocol. Read its text; look at the server's log."""


class StreamFull(BrokerRefused):
    """A stream holds as much as it may, and nothing was stored. Wait for space, or raise its limit."""


class StreamMismatch(PenstockError):
    """A stream or consumer on the server differs from ours. Change the setting back, or migrate the stream by hand."""
