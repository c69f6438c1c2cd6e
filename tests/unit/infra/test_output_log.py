"""Closing a log: which refusals of the broker pass, and which do not."""

from __future__ import annotations

from typing import Any, cast

import pytest

from infra.jetstream import FULL, IN_PROCESS, SERVICE_UNAVAILABLE, JetStream, PubAck
from infra.output_log import OutputLog
from schemas.errors import BrokerAway, BrokerRefused
from schemas.output import End

RID = "r" * 20
END = End(status="cancelled", reason="cancelled")


class Refusing:
    """A JetStream without a record that refuses what is published."""

    def __init__(self, err_code: int) -> None:
        self._err_code = err_code

    async def last(self, _stream: str, _subject: str) -> None: ...

    async def publish(self, _subject: str, _payload: bytes, **_: Any) -> PubAck:
        return PubAck(err_code=self._err_code)


@pytest.mark.parametrize("err_code", [IN_PROCESS, SERVICE_UNAVAILABLE])
async def test_what_passes_soon_is_worth_another_try(err_code: int) -> None:
    log = OutputLog(cast("JetStream", Refusing(err_code)))
    with pytest.raises(BrokerAway):
        await log.close("public", RID, END)


async def test_what_does_not_pass_is_said() -> None:
    log = OutputLog(cast("JetStream", Refusing(FULL)))
    with pytest.raises(BrokerRefused):
        await log.close("public", RID, END)
