"""The same requests to Penstock and to vLLM's own server: `python -m bench.same_as_vllm --model FOLDER`.

Each case goes to both by the official client, as a stream and in one piece. vLLM's two answers to one request are not
always the same: its parsers for streams and for whole texts are different code. Penstock keeps one log of a request,
made of what vLLM streams, so that its own two are always the same; where vLLM's are not, its stream is what counts, and
the row says so. `FOLDER` is made by `python -m tests.vllm.tiny_model FOLDER`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from openai import OpenAI

from bench.answer import ask, differences, stream
from bench.engine_cases import CASES, REASONING, Case
from bench.result_file import write_result
from bench.system import System
from bench.transcript import client
from bench.vllm_server import START_TIMEOUT_S, VllmServer, penstock_flags


class Row(NamedTuple):
    """How one case came out: in what Penstock's stream differs from vLLM's, its whole answer from vLLM's, and its whole
    answer from its own stream."""

    name: str
    finish_reasons: list[str | None]
    completion_tokens: int
    stream: list[str]
    whole: list[str]
    own: list[str]

    @property
    def is_same(self) -> bool:
        """Whether both of Penstock's answers are what vLLM streams."""
        return not self.stream and not self.own


def main() -> None:
    """Compares all cases, prints a table, writes it to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for reasoning, cases in ((False, CASES), (True, REASONING)):
        with tempfile.TemporaryDirectory() as store:
            reference = VllmServer(arguments.model, Path(store, "vllm.log"), reasoning=reasoning)
            try:
                flags = penstock_flags(arguments.model, reasoning=reasoning)
                system = System(Path(store, "penstock"), START_TIMEOUT_S, **flags)
                try:
                    reference.wait_ready()
                    rows += [compare(reference.url, system.url, str(arguments.model), case) for case in cases]
                finally:
                    system.stop()
            finally:
                reference.stop()
    print(HEAD + "\n".join(line(row) for row in rows))
    write_result(arguments.out, rows=[{**row._asdict(), "same": row.is_same} for row in rows])


def compare(reference_url: str, url: str, model: str, case: Case) -> Row:
    """One case, four answers."""
    with client(reference_url) as theirs, client(url) as ours:
        asked = ready(theirs, model, case)
        body = {"model": model, **asked.body}
        their_stream, their_whole = stream(theirs, case.api, body), ask(theirs, case.api, body)
        our_stream, our_whole = stream(ours, case.api, body), ask(ours, case.api, body)
    return Row(
        case.name,
        their_stream.finish_reasons,
        their_stream.completion_tokens,
        differences(our_stream, their_stream),
        differences(our_whole, their_whole),
        differences(our_whole, our_stream),
    )


def ready(asking: OpenAI, model: str, case: Case) -> Case:
    """The case with stop strings that do occur in its answer."""
    if not case.stops:
        return case
    return case.stopped(stream(asking, case.api, {"model": model, **case.body}).parts[0].text)


HEAD = "| request | finish | tokens | stream | whole |\n|---|---|---|---|---|\n"


def line(row: Row) -> str:
    """One of the table."""
    finish = ", ".join(str(reason) for reason in row.finish_reasons)
    whole = "as vLLM streams it" if row.is_same and row.whole else _verdict(row.whole)
    return f"| {row.name} | {finish} | {row.completion_tokens} | {_verdict(row.stream)} | {whole} |"


def _verdict(found: list[str]) -> str:
    return "other " + ", ".join(found) if found else "same"


if __name__ == "__main__":
    main()
