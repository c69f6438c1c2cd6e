"""What the pipeline costs in front of vLLM: `.venv-vllm/bin/python -m bench.vllm_throughput`.

vLLM's own server and `penstock up` with the vLLM engine stand side by side with the same flags on the same model, and
take turns under the same load, so that each pair of runs is a few seconds apart. While one is loaded the other idles.
Told are the ratio of tokens per second and the difference of the median time to first token, per pair, with spread.
The engine's arithmetic has CPU cores of its own on both sides; all else, the client too, shares what is left.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.random_model import Size, build
from bench.result_file import write_result
from bench.stream_load import Chat, Result, run_load
from bench.system import System
from infra.ports import free_port
from infra.settings import set_environment

MAX_NUM_SEQS = 64
START_TIMEOUT_S = 180.0
POLL_S = 0.1
TOKENS_MIN, TOKENS_MAX = 64, 192
WORDS = ["rivers", "carry", "water", "from", "mountains", "to", "the", "sea", "and", "turn", "wheels"]
PROMPT_WORDS = 20
SAMPLING: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.0, "top_p": 0.95},
}


class Pair(NamedTuple):
    """One load, first on one server, then on the other; `load` is the machine's load average at its end."""

    clients: int
    sampling: str
    direct: Result
    pipeline: Result
    load: float

    @property
    def ratio(self) -> float:
        """Tokens per second of the pipeline for each one of vLLM's own server."""
        return self.pipeline.tokens_per_s / self.direct.tokens_per_s

    @property
    def ttft_added_ms(self) -> float:
        """Of the medians."""
        return _ttft_ms(self.pipeline) - _ttft_ms(self.direct)


def main() -> None:
    """Measures, prints a line per number of clients, writes all pairs to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--sampling", nargs="+", choices=[*SAMPLING], default=["greedy"])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8.0, help="about how long each load takes")
    parser.add_argument("--cores", default=str((os.cpu_count() or 1) - 1), help="for the arithmetic: 2-3")
    parser.add_argument("--control", action="store_true", help="vLLM's own server on both sides: the noise")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    set_environment(
        {
            "VLLM_CPU_OMP_THREADS_BIND": arguments.cores,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
    )
    size = Size(arguments.hidden, arguments.layers)
    with tempfile.TemporaryDirectory() as scratch:
        model = build(Path(scratch), size)
        other = _vllm_server if arguments.control else _pipeline
        with (
            _vllm_server(model, arguments.dtype, Path(scratch)) as direct_url,
            other(model, arguments.dtype, Path(scratch)) as pipeline_url,
        ):
            pairs = [
                pair
                for sampling in arguments.sampling
                for clients in arguments.clients
                for pair in _measure(
                    (direct_url, pipeline_url),
                    str(model),
                    clients,
                    sampling,
                    arguments.pairs,
                    arguments.seconds,
                )
            ]
    _tell(size, arguments.dtype, arguments.cores, pairs, arguments.out)


def _measure(
    urls: tuple[str, str], model: str, clients: int, sampling: str, pairs: int, seconds: float
) -> Iterator[Pair]:
    def load(url: str, name: str, count: int) -> Result:
        return run_load(url, model, _chats(name, count), clients=clients, sampling=SAMPLING[sampling])

    # Both are warm before anything counts, and from how long that took follows how many requests fill the time.
    warm = [load(url, f"warm {sampling} {clients}", 3 * clients) for url in urls]
    count = max(2 * clients, round(seconds / warm[0].wall_s * 3) * clients)
    for number in range(pairs):
        name = f"{sampling} {clients} {number}"
        if number % 2:
            pipeline, direct = load(urls[1], name, count), load(urls[0], name, count)
        else:
            direct, pipeline = load(urls[0], name, count), load(urls[1], name, count)
        pair = Pair(clients, sampling, direct, pipeline, os.getloadavg()[0])
        print(
            f"  {sampling}, {clients} clients: {direct.tokens_per_s:.0f} and {pipeline.tokens_per_s:.0f} tokens/s, "
            f"ratio {pair.ratio:.3f}, ttft {_ttft_ms(direct):.1f} + {pair.ttft_added_ms:.1f} ms, load {pair.load:.1f}",
            flush=True,
        )
        yield pair


def _chats(name: str, count: int) -> list[Chat]:
    """The same for both servers, new to both: no prompt is in a prefix cache. Answers of many lengths, so that prefills
    fall between the steps of others, as they do in service."""
    chats = []
    for number in range(count):
        words = [WORDS[(number + i * i) % len(WORDS)] for i in range(PROMPT_WORDS)]
        tokens = TOKENS_MIN + number * 7919 % (TOKENS_MAX - TOKENS_MIN + 1)
        chats.append(Chat(f"{name} {number}: {' '.join(words)}", tokens))
    return chats


def _tell(size: Size, dtype: str, cores: str, pairs: list[Pair], out: Path | None) -> None:
    rows = []
    for sampling, clients in dict.fromkeys((pair.sampling, pair.clients) for pair in pairs):
        ours = [pair for pair in pairs if (pair.sampling, pair.clients) == (sampling, clients)]
        ratios, added = [pair.ratio for pair in ours], [pair.ttft_added_ms for pair in ours]
        row = {
            "sampling": sampling,
            "clients": clients,
            "ratio": _spread(ratios, 3),
            "ttft_added_ms": _spread(added, 1),
            "direct": [_numbers(pair.direct) for pair in ours],
            "pipeline": [_numbers(pair.pipeline) for pair in ours],
            "load_average": [round(pair.load, 2) for pair in ours],
        }
        rows.append(row)
        rate = statistics.median(pair.direct.tokens_per_s for pair in ours)
        print(
            f"{size.name} {dtype}, {sampling}, {clients} clients, {len(ours)} pairs: "
            f"vLLM {rate:.0f} tokens/s, {_itl_ms(ours):.1f} ms per step; "
            f"ratio {row['ratio']}; time to first token added {row['ttft_added_ms']} ms"
        )
    write_result(out, model=size.name, dtype=dtype, engine_cores=cores, rows=rows)


def _numbers(result: Result) -> dict[str, float]:
    return {
        "tokens_per_s": round(result.tokens_per_s, 1),
        "ttft_p50_ms": round(_ttft_ms(result), 2),
        "requests": len(result.answers),
        "events_per_token": round(
            sum(a.events for a in result.answers) / sum(a.tokens for a in result.answers), 3
        ),
    }


def _ttft_ms(result: Result) -> float:
    return statistics.median(answer.ttft_s for answer in result.steady) * 1e3


def _itl_ms(pairs: list[Pair]) -> float:
    answers = [answer for pair in pairs for answer in pair.direct.answers]
    return statistics.median((a.total_s - a.ttft_s) / (a.tokens - 1) for a in answers) * 1e3


def _spread(samples: list[float], digits: int) -> str:
    low, middle, high = min(samples), statistics.median(samples), max(samples)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@contextmanager
def _vllm_server(model: Path, dtype: str, scratch: Path) -> Iterator[str]:
    """What `vllm serve` runs, without what only logs. (The command itself does not start in the package for CPUs.)"""
    url = f"http://127.0.0.1:{(port := free_port())}"
    flags = ["--model", str(model), "--served-model-name", str(model), "--host=127.0.0.1", f"--port={port}"]
    flags += [f"--dtype={dtype}", f"--max-num-seqs={MAX_NUM_SEQS}", "--enforce-eager"]
    flags += ["--disable-log-stats", "--disable-uvicorn-access-log"]
    log_path = scratch / f"vllm-{port}.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_up(f"{url}/health"):
            is_late = server.poll() is not None or time.monotonic() > deadline
            assert not is_late, f"vLLM's server did not start:\n{log_path.read_text()[-4000:]}"
            time.sleep(POLL_S)
        yield url
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def _pipeline(model: Path, dtype: str, scratch: Path) -> Iterator[str]:
    system = System(
        scratch / "penstock",
        START_TIMEOUT_S,
        engine="vllm",
        model=model,
        dtype=dtype,
        max_num_seqs=MAX_NUM_SEQS,
        engine_arg="enforce-eager",
    )
    try:
        yield system.url
    finally:
        system.stop()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
