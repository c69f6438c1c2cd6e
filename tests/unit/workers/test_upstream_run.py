"""One request against a scripted upstream, in simulated time: when it is asked again, and when not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from schemas.log import Fold
from schemas.output import Delta
from schemas.requests import RequestMeta
from workers.engines.base import EngineEvent, EngineFailed, EngineFinished, EngineRequest, Prefix, prefix_of
from workers.engines.upstream_call import Call, Upstream
from workers.engines.upstream_run import SILENT_S, Move, Run, Wait

ANSWER = b"".join(
    b"data: " + json.dumps({"choices": [one]}).encode() + b"\n\n"
    for one in [{"delta": {"content": "all "}}, {"delta": {"content": "well"}}, {"finish_reason": "stop"}]
)
FOREVER_S = 600.0
"""When the worker of this world takes its request back."""


@dataclass
class Server:
    """Answers each try by the next line of its script, and for good by the last: a status with headers and a body,
    `away`, `break`, or `ok` with the bytes that come before the connection breaks (all: none does)."""

    script: list[tuple[object, ...]]
    at: list[float] = field(default_factory=list)
    bodies: list[dict[str, object]] = field(default_factory=list)

    def answer(self, run: Run, content: bytes, now: float) -> Move | list[EngineEvent]:
        what, *more = self.script[min(len(self.at), len(self.script) - 1)]
        self.at.append(now)
        self.bodies.append(json.loads(content))
        match what:
            case "away":
                return run.unreachable("refused", 0.5)
            case "break":
                return run.broke("reset", 0.5)
            case "ok":
                run.accepted()
                answer = more[0] if more else ANSWER
                assert isinstance(answer, bytes)
                events = run.read(answer)
                if more and not (events and isinstance(events[-1], EngineFailed)):
                    return run.broke("reset", 0.5)
                return events + ([] if more else run.end())
            case int(status):
                headers = dict(more[0]) if more and isinstance(more[0], dict) else {}
                body = more[-1] if more and isinstance(more[-1], bytes) else b"{}"
                return run.refused(status, headers, body, 0.5)
        raise AssertionError(what)


def a_run(refused: dict[str, None] | None = None, prefix: Prefix | None = None, **body: object) -> Run:
    raw = json.dumps({"messages": [], **body}).encode()
    request = EngineRequest("t.r1", 1, raw, RequestMeta(), prefix)
    call = Call(request, Upstream("m", tells_ids=True))
    return Run(request, call, 1000, {} if refused is None else refused)


def play(server: Server, run: Run) -> EngineEvent | None:
    """What comes of it; None: its time was over first."""
    now = 0.0
    outcome: Move | list[EngineEvent] | None = run.cannot()
    while outcome is None or isinstance(outcome, Wait):
        if outcome is not None:
            now += outcome.delay_s
        if now > FOREVER_S:
            return None
        outcome = server.answer(run, run.ask(now), now)
    return outcome if isinstance(outcome, EngineFailed) else outcome[-1]


@pytest.mark.parametrize("trouble", [(429,), (503,), (502, b"<html>"), ("away",), (529,)])
def test_trouble_that_passes_fails_nothing(trouble: tuple[object, ...]) -> None:
    server = Server([trouble] * 5 + [("ok",)])
    assert isinstance(play(server, a_run()), EngineFinished)
    waits = [b - a for a, b in zip(server.at, server.at[1:], strict=False)]
    assert waits == sorted(waits)
    assert waits[0] < 0.3


@pytest.mark.parametrize("trouble", [(429,), (503,), ("away",)])
def test_trouble_that_stays_is_asked_until_the_worker_takes_the_request_back(
    trouble: tuple[object, ...],
) -> None:
    server = Server([trouble])
    assert play(server, a_run()) is None
    assert 20 < len(server.at) < 60, "at most every 30 s, in the end"
    assert max(b - a for a, b in zip(server.at, server.at[1:], strict=False)) <= 30


def test_what_the_upstream_asks_for_is_honoured() -> None:
    server = Server([(429, {"retry-after": "7"}), (503, {"retry-after-ms": "1500"}), ("ok",)])
    assert isinstance(play(server, a_run()), EngineFinished)
    assert server.at == pytest.approx([0, 7 * 1.05, 8.5 * 1.05])


def test_one_break_before_the_answer_is_an_accident_and_two_are_the_requests_doing() -> None:
    assert isinstance(play(Server([("break",), ("ok",)]), a_run()), EngineFinished)
    assert isinstance(play(Server([("break",), ("away",), (503,), ("ok",)]), a_run()), EngineFinished)
    failed = play(Server([("break",)]), a_run())
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "engine_error"


@pytest.mark.parametrize("cut", range(0, len(ANSWER), 7))
def test_a_break_after_the_first_token_is_told_at_once(cut: int) -> None:
    server = Server([("ok", ANSWER[:cut])])
    failed = play(server, a_run())
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "engine_error"
    has_begun = ANSWER[:cut].count(b"\n\n") > 0
    assert len(server.at) == (1 if has_begun else 2)


def test_refusals_are_told_at_once() -> None:
    server = Server([(400, b'{"error":{"message":"no"}}')])
    assert play(server, a_run()) == EngineFailed("t.r1", 1, "no", "bad_request")
    assert len(server.at) == 1


def unknown(field: str) -> tuple[object, ...]:
    return (400, json.dumps({"error": {"message": f"unknown field {field}"}}).encode())


def test_fields_that_are_not_known_there_are_left_out_from_then_on() -> None:
    refused: dict[str, None] = {}
    server = Server([unknown("return_token_ids"), unknown("stream_options"), unknown("seed"), ("ok",)])
    assert isinstance(play(server, a_run(refused)), EngineFinished)
    assert server.at == [0, 0, 0, 0]
    assert {"return_token_ids", "stream_options", "seed"} <= set(server.bodies[0])
    assert not {"return_token_ids", "stream_options", "seed"} & set(server.bodies[-1])
    assert list(refused) == ["return_token_ids", "stream_options", "seed"]
    server = Server([("ok",)])
    assert isinstance(play(server, a_run(refused)), EngineFinished)
    assert set(server.bodies[0]) == {"messages", "model", "stream"}


def test_a_client_cannot_have_fields_left_out_for_others() -> None:
    refused: dict[str, None] = {}
    server = Server([unknown("seed"), (400, b'{"error":{"message":"messages: `seed` is no message"}}')])
    failed = play(server, a_run(refused))
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "bad_request"
    assert refused == {}, "only a request that was taken without them says that they were the reason"


def _logged(text: str) -> Prefix:
    log = Fold()
    log.add(0, [0], [Delta(text)])
    return prefix_of(log)


def test_what_cannot_be_made_again_is_not_asked_for() -> None:
    server = Server([("ok",)])
    failed = play(server, a_run({"seed": None}, _logged("all ")))
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "not_continuable"
    assert server.at == []
    server = Server([unknown("seed"), ("ok",)])
    failed = play(server, a_run({}, _logged("all ")))
    assert isinstance(failed, EngineFailed)
    assert failed.reason == "not_continuable"
    assert len(server.at) == 1
    for body in ({"temperature": 0}, {"seed": 4}):
        finished = play(Server([("ok",)]), a_run({"seed": None}, _logged("all "), **body))
        assert isinstance(finished, EngineFinished)
        assert [delta.text for delta in finished.deltas] in ([], ["well"])


def test_a_silent_upstream_is_deserted_only_when_nothing_is_heard_of_it() -> None:
    run = a_run()
    assert not run.desert(0.0, 1e6), "nothing is owed"
    run.ask(100.0)
    assert not run.desert(0.0, 100.0 + SILENT_S - 1)
    assert not run.desert(110.0, 110.0 + SILENT_S - 1), "others are heard"
    assert run.desert(110.0, 110.0 + SILENT_S)
    assert not run.desert(110.0, 200.0), "once"
    assert isinstance(run.unreachable("silent", 0.5), Wait)
    run.ask(300.0)
    run.read(ANSWER[:60])
    assert run.desert(300.0, 300.0 + SILENT_S)
    assert isinstance(run.unreachable("silent", 0.5), EngineFailed), "its stream cannot be joined again"


@pytest.mark.parametrize("seed", range(200))
def test_any_weather_ends_well_once_it_clears(seed: int) -> None:
    chance = Random(seed)
    kinds: list[Callable[[], tuple[object, ...]]] = [
        lambda: ("away",),
        lambda: (chance.choice([408, 425, 429, 502, 503, 529]),),
        lambda: (429, {"retry-after": str(chance.randrange(20))}),
        lambda: (503, {"retry-after-ms": "nonsense"}, b"\xff<html>"),
    ]
    script = [chance.choice(kinds)() for _ in range(chance.randrange(12))]
    server = Server([*script, ("ok",)])
    assert isinstance(play(server, a_run()), EngineFinished)
    assert len(server.at) == len(script) + 1
