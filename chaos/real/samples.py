"""What processes hold, looked at from outside now and then: memory, open files, subscriptions."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from chaos.real.history import Sample
from chaos.real.members import Member
from chaos.real.shape import Record

INTERVAL_S = 3.0
TIMEOUT_S = 1.0
CONNECTIONS_MAX = 1024
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


async def sample(
    members: Iterable[Member], monitor_urls: list[str], http: httpx.AsyncClient, record: Record
) -> None:
    """Writes a `Sample` of every process that runs, for ever."""
    while True:
        subscriptions = await _subscriptions(monitor_urls, http)
        for member in members:
            pid = member.pid
            held = _held(pid) if pid is not None else None
            if pid is not None and held is not None:
                rss_bytes, files = held
                record(
                    Sample(
                        at=time.time(),
                        process=member.name,
                        pid=pid,
                        rss_bytes=rss_bytes,
                        files=files,
                        subscriptions=sum(
                            count for name, count in subscriptions if name.startswith(f"{member.name}-")
                        ),
                    )
                )
        await asyncio.sleep(INTERVAL_S)


def _held(pid: int) -> tuple[int, int] | None:
    """Resident bytes and open files; None: it is gone."""
    proc = Path("/proc") / str(pid)
    try:
        pages = int((proc / "statm").read_text().split()[1])
        return pages * PAGE_BYTES, len(os.listdir(proc / "fd"))
    except OSError:
        return None


async def _subscriptions(monitor_urls: list[str], http: httpx.AsyncClient) -> list[tuple[str, int]]:
    """Of each connection by its name, which is that of one start of a process, as the brokers count them."""
    answers = await asyncio.gather(*(_connections(url, http) for url in monitor_urls))
    return [
        (connection.get("name", ""), connection["subscriptions"])
        for answer in answers
        for connection in answer
    ]


async def _connections(monitor_url: str, http: httpx.AsyncClient) -> list[dict[str, Any]]:
    try:
        answer = await http.get(f"{monitor_url}/connz", params={"limit": CONNECTIONS_MAX}, timeout=TIMEOUT_S)
    except httpx.HTTPError:
        return []
    return list(answer.json().get("connections") or []) if answer.is_success else []
