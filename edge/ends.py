"""The ENDs an edge writes for requests it does not run. Pure."""

from __future__ import annotations

from schemas.output import End

CLIENT_GONE = End(status="cancelled", reason="cancelled", message="the client went away")
CANCELLED = End(status="cancelled", reason="cancelled", message="the request was cancelled")
NOT_CONFIRMED = End(
    status="cancelled", reason="cancelled", message="the broker did not confirm the request in time"
)
QUEUE_TIMEOUT = End(status="expired", reason="queue_timeout", message="no worker took the request in time")
REQUEST_TIMEOUT = End(status="expired", reason="request_timeout", message="the request did not end in time")
