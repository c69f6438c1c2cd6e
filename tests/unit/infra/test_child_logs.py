"""What becomes of the output of supervised children."""

from __future__ import annotations

import asyncio
import re

import pytest

from infra.child_logs import LINE_BYTES_MAX, ChildLogs


async def pump(output: bytes, *, pretty: bool = False) -> ChildLogs:
    logs = ChildLogs(["broker", "worker-1"], pretty=pretty)
    stream = asyncio.StreamReader()
    stream.feed_data(output)
    stream.feed_eof()
    await logs.pump("worker-1", stream)
    return logs


async def test_lines_of_roles_pass_unchanged_off_a_terminal(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    logs = await pump(b'{"event": "ready"}\n\nno newline at the end')
    assert capsysbinary.readouterr().err == b'{"event": "ready"}\nno newline at the end\n'
    assert logs.last_line("worker-1") == "no newline at the end"
    assert logs.last_line("broker") == ""


async def test_lines_name_their_author_on_a_terminal(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    await pump(b"one\ntwo\n", pretty=True)
    for line in capsysbinary.readouterr().err.splitlines():
        assert re.match(rb"\x1b\[\d+mworker-1 \W+\x1b\[0m (one|two)$", line)


async def test_an_endless_line_is_cut_and_nothing_is_lost(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    await pump(b"x" * (3 * LINE_BYTES_MAX))
    lines = capsysbinary.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert b"".join(lines) == b"x" * (3 * LINE_BYTES_MAX)


async def test_chatter_of_nats_server_is_not_shown(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    await pump(b"[12] 2026/11/21 01:13:40.412288 [INF] Starting nats-server\n")
    assert capsysbinary.readouterr().err == b""
