"""Strings that must turn up nowhere, and where they are looked for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import httpx
import nats

from bench.system import System
from bench.transcript import expected

WORDS_TOGETHER = 4
"""So many generated words in a row are nothing that anybody else says."""

SERVICE_WAIT_S = 1.0


def found_in(texts: Iterable[tuple[str, bytes]], canaries: Iterable[str]) -> list[str]:
    """Where which of them is, plainly, in JSON's or a URL's escapes, or in Base64 at any of its three offsets."""
    forms = {canary: _forms(canary) for canary in canaries}
    return [
        f"{canary!r} in {name}: {_around(text, form)!r}"
        for name, text in texts
        for canary, them in forms.items()
        for form in them
        if form in text
    ]


def generated_by(prompt: str, tokens: int) -> list[str]:
    """Pieces of the simulator's answer to a chat of one user message, as JSON would hold them."""
    words = expected(prompt, tokens).split()
    return [" ".join(words[at : at + WORDS_TOGETHER]) for at in range(len(words) - WORDS_TOGETHER + 1)]


def said_by(system: System) -> list[tuple[str, bytes]]:
    """Everything that is not an answer and not a stream of the broker: logs, kept traces and states, metrics, what the
    processes tell who asks them on NATS."""
    said = [
        (name, content) for name, content in files_under(system.store) if "jetstream" not in Path(name).parts
    ]
    said += [
        (page, httpx.get(f"{system.url}{page}").content)
        for page in ("/metrics", "/health", "/v1/queue/stats")
    ]
    said += [(page, httpx.get(f"{system.monitor_url}{page}").content) for page in ("/varz", "/connz?auth=1")]
    return said + asyncio.run(_services(system.nats_url))


def files_under(folder: Path) -> list[tuple[str, bytes]]:
    """Names, from there on, and contents. The owners go on writing: what is gone before it is read was replaced."""
    found = []
    for at, _, names in os.walk(folder):
        for path in (Path(at, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found.append((str(path.relative_to(folder)), path.read_bytes()))
    return found


def lines_of(system: System) -> list[dict[str, object]]:
    """The lines of the log that are JSON: ours. The last one may still be on its way."""
    lines = system.log_path.read_text(errors="replace").split("\n")[:-1]
    return [json.loads(line) for line in lines if line.startswith("{")]


def _forms(canary: str) -> set[bytes]:
    data = canary.encode()
    forms = {data, json.dumps(canary)[1:-1].encode(), data.replace(b" ", b"%20"), data.hex().encode()}
    for offset in range(3):
        # What does not depend on the bytes before and after it.
        coded = base64.b64encode(bytes(offset) + data)
        forms.add(coded[4 if offset else 0 : len(coded) - 4])
    return {form for form in forms if len(form) >= 8}


def _around(text: bytes, form: bytes) -> bytes:
    at = text.index(form)
    return text[max(at - 120, 0) : at + len(form) + 60]


async def _services(url: str) -> list[tuple[str, bytes]]:
    client = await nats.connect(url)
    said: list[tuple[str, bytes]] = []
    try:
        for verb in ("PING", "INFO", "STATS"):
            inbox = client.new_inbox()
            heard = await client.subscribe(inbox)
            await client.publish(f"$SRV.{verb}", b"", reply=inbox)
            await asyncio.sleep(SERVICE_WAIT_S)  # however many answer, and nobody knows how many there are
            said += [(f"$SRV.{verb}", (await heard.next_msg()).data) for _ in range(heard.pending_msgs)]
    finally:
        await client.close()
    return said
