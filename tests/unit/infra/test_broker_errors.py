"""What a connection tells of the broker's refusals."""

from __future__ import annotations

import pytest
import structlog

from infra.broker_errors import BrokerErrors


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("llm.v1.ctl.a.b", 'Publish to "llm.v1.ctl.a.b"'),
        ("$JS.ACK.REQUESTS.standard-m.1.17.5.1700000000000000000.0", 'Publish to "$JS.ACK.'),
    ],
)
def test_an_ack_subject_is_not_in_the_log(subject: str, told: str) -> None:
    with structlog.testing.capture_logs() as lines:
        BrokerErrors("U").forbidden(f"-ERR 'Permissions Violation for Publish to \"{subject}\"'\r\n".encode())
    assert [line["what"] for line in lines] == [told]
