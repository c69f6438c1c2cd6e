"""What the pipeline adds to the time to first token of an idle system: `python -m bench.first_token`.

One request at a time. "direct" calls the simulator in this process, from submit to its first output; "pipeline" is a
client of `penstock up` (one edge, one scheduler, one worker), from the first byte sent to the first token received, so
it holds HTTP, five hops over the broker, the stored request, the stored lease and the stored token. Both with
`ttft_ms 0`, so that the difference is the pipeline. The result file holds every sample.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench.system import System
from schemas.requests import RequestMeta
from workers.engines.base import EngineEvent, EngineOutput, EngineRequest
from workers.engines.simulator import Simulator, SimulatorOptions

TOKENS = 8
WARM_UP = 20


def main() -> None:
    """Measures both, prints one line, writes the samples to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    direct = asyncio.run(measure_direct(arguments.requests))
    with tempfile.TemporaryDirectory() as store:
        system = System(Path(store), ttft_ms=0, itl_ms=1)
        try:
            pipeline = measure_pipeline(system.url, arguments.requests)
        finally:
            system.stop()
    added_ms = statistics.median(pipeline) - statistics.median(direct)
    print(
        f"time to first token, {arguments.requests} requests one at a time: "
        f"direct p50 {statistics.median(direct):.2f} ms, "
        f"pipeline p50 {statistics.median(pipeline):.2f} ms p99 {statistics.quantiles(pipeline, n=100)[98]:.2f} ms, "
        f"added p50 {added_ms:.2f} ms"
    )
    if arguments.out:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
        result = {"machine": machine, "added_p50_ms": added_ms, "direct_ms": direct, "pipeline_ms": pipeline}
        arguments.out.write_text(json.dumps(result) + "\n")


async def measure_direct(requests: int) -> list[float]:
    """Milliseconds from `submit` to the first output of the simulator in this process."""
    first: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def sink(event: EngineEvent) -> None:
        if isinstance(event, EngineOutput) and not first.done():
            first.set_result(time.perf_counter())

    engine = Simulator(
        SimulatorOptions(ttft_ms=0, itl_ms=1, prefill_tps=0, context_tokens_max=1024, max_tokens_default=16)
    )
    await engine.start(sink)
    samples = []
    for number in range(WARM_UP + requests):
        first = asyncio.get_running_loop().create_future()
        request = EngineRequest(f"{number:020d}", 1, _body(number), RequestMeta())
        start = time.perf_counter()
        engine.submit(request)
        samples.append((await first - start) * 1e3)
        engine.cancel(request.key)
    await engine.stop()
    return samples[WARM_UP:]


def measure_pipeline(url: str, requests: int) -> list[float]:
    """Milliseconds from the first byte of the request to the first token, as an HTTP client sees it."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    samples = []
    for number in range(WARM_UP + requests):
        start = time.perf_counter()
        connection.request(
            "POST", "/v1/chat/completions", _body(number), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while b'"content":"' not in (line := response.readline()) or b'"content":""' in line:
            assert line, "the stream ended before its first token"
        samples.append((time.perf_counter() - start) * 1e3)
        response.read()
    connection.close()
    return samples[WARM_UP:]


def _body(number: int) -> bytes:
    messages = [{"role": "user", "content": f"first token {number}"}]
    return json.dumps({"messages": messages, "max_tokens": TOKENS, "stream": True}).encode()


if __name__ == "__main__":
    main()
