"""Whether clients that obey `Retry-After` get in when they come back: `python -m bench.retry_after`.

`--load` times as many clients as the slots can take come for `--burst` seconds, by chance (Poisson), to `penstock up`
with two edges, one simulator worker and a short queue. Each asks once, and when it is refused it waits exactly as long
as it is told and asks again, with the header of the official clients that says so. Every request is a connection of its
own, so that the kernel chooses the edge. The outputs differ in length, so that slots become free by chance, too.

"told" is the system as it is. "constant" is what a constant of one second does instead: every client waits that long,
whatever it is told, and says from the first time on that it comes back, so that only the broker's bound refuses it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.result_file import percentile, write_result
from bench.system import System

SLOTS = 8
QUEUE_MAX = 40
ITL_MS = 20
TOKENS = (40, 120)
"""0.8 to 2.4 s in a slot, 1.6 s on average: five requests per second."""

RATE = SLOTS / (sum(TOKENS) / 2 * ITL_MS / 1e3)
CONSTANT_S = 1.0
CAP_S = 120.0
CLIENT_TIMEOUT_S = 120.0
SEED = 5


@dataclass
class Client:
    """One client's story: when it came, what it was told at each refusal, and how it ended."""

    at_s: float
    waits_s: list[float] = field(default_factory=list)
    ended: str = ""
    done_s: float = 0.0


def main() -> None:
    """Runs both, prints a table, writes every client's story to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, default=3.0)
    parser.add_argument("--burst", type=float, default=35.0)
    parser.add_argument("--only", choices=["told", "constant"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    runs = {}
    for name in ("told", "constant"):
        if arguments.only in (None, name):
            clients = measure(arguments.load, arguments.burst, is_constant=name == "constant")
            runs[name] = {**summary(clients), "clients": [vars(client) for client in clients]}
            print(name, {key: value for key, value in runs[name].items() if key != "clients"}, flush=True)
    setup = {"edges": 2, "slots": SLOTS, "queue_max": QUEUE_MAX, "rate_per_s": RATE, "tokens": TOKENS}
    write_result(arguments.out, setup=setup, load=arguments.load, burst_s=arguments.burst, runs=runs)


def measure(load: float, burst_s: float, *, is_constant: bool) -> list[Client]:
    """The stories of all clients of one burst on a fresh system."""
    with tempfile.TemporaryDirectory() as store:
        system = System(Path(store), edges=2, slots=SLOTS, queue_max=QUEUE_MAX, ttft_ms=0, itl_ms=ITL_MS)
        try:
            return asyncio.run(_burst(system.url, load, burst_s, is_constant=is_constant))
        finally:
            system.stop()


def summary(clients: list[Client]) -> dict[str, object]:
    """The numbers of one run."""
    refused = [client for client in clients if client.waits_s]
    first = [client.waits_s[0] for client in refused]
    return {
        "offered": len(clients),
        "ended": dict(Counter(client.ended for client in clients)),
        "refused": len(refused),
        "first_retry_succeeds": sum(len(client.waits_s) == 1 for client in refused) / len(refused),
        "refusals": sum(len(client.waits_s) for client in clients),
        "tries_max": 1 + max(len(client.waits_s) for client in clients),
        "told_s": {str(percent): round(percentile(first, percent), 2) for percent in (1, 25, 50, 75, 99)},
        "told_max_s": round(max(first), 2),
        "beyond_cap": sum(wait_s >= CAP_S for wait_s in first) / len(first),
        "returns_per_second_max": max(
            Counter(int(client.at_s + client.waits_s[0]) for client in refused).values()
        ),
        "all_done_s": round(max(client.done_s for client in clients), 1),
    }


async def _burst(url: str, load: float, burst_s: float, *, is_constant: bool) -> list[Client]:
    chance = random.Random(SEED)
    clients: list[Client] = []
    at_s = 0.0
    while (at_s := at_s + chance.expovariate(load * RATE)) < burst_s:
        clients.append(Client(at_s))
    began = time.monotonic()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=CLIENT_TIMEOUT_S, limits=limits) as http:
        lengths = [chance.randint(*TOKENS) for _ in clients]
        await asyncio.gather(
            *(
                _live(http, client, tokens, began, is_constant=is_constant)
                for client, tokens in zip(clients, lengths, strict=True)
            )
        )
    return clients


async def _live(
    http: httpx.AsyncClient, client: Client, tokens: int, began: float, *, is_constant: bool
) -> None:
    await asyncio.sleep(client.at_s - (time.monotonic() - began))
    messages = [{"role": "user", "content": f"client {client.at_s}"}]
    body = {"messages": messages, "max_tokens": tokens, "ignore_eos": True}
    while not client.ended:
        tries = len(client.waits_s) + is_constant
        headers = {"x-stainless-retry-count": str(tries)}
        response = await http.post("/v1/chat/completions", json=body, headers=headers)
        if response.status_code in (429, 503) and "retry-after-ms" in response.headers:
            wait_s = CONSTANT_S if is_constant else float(response.headers["retry-after-ms"]) / 1e3
            client.waits_s.append(wait_s)
            await asyncio.sleep(wait_s)
        else:
            client.ended = str(response.status_code)
    client.done_s = time.monotonic() - began


if __name__ == "__main__":
    main()
