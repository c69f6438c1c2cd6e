"""Which engine and model `up` starts its workers with. It knows no engine itself, so it asks a worker's process."""

from __future__ import annotations

import subprocess

import msgspec

ASK_TIMEOUT_S = 60.0
"""An answer takes a third of a second; this is for a machine that is busy with something else."""


class EngineChoice(msgspec.Struct, frozen=True, tag="choice", tag_field="t"):
    """What will run. Clients call the model by `name`. `line` says it in words that follow "runs"; `commands` lead to a
    better choice, if there is one, and are to be typed in that order."""

    engine: str
    model: str
    name: str
    line: str
    commands: list[str] = []


class EngineRefusal(msgspec.Struct, frozen=True, tag="refusal", tag_field="t"):
    """What was asked for cannot run; `why` says what to do about it."""

    why: str


class NoEngine(Exception):
    """No engine can run what was asked for; the message says what to do."""


def ask_worker(command: list[str], environment: dict[str, str]) -> EngineChoice:
    """The choice of the process that `command` starts. Raises NoEngine."""
    try:
        asked = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_TIMEOUT_S,
            check=False,
        )
        answer = msgspec.json.decode(asked.stdout, type=EngineChoice | EngineRefusal)
    except subprocess.TimeoutExpired:
        raise NoEngine(
            f"no engine was chosen within {ASK_TIMEOUT_S:g} s: name one with --engine and --model"
        ) from None
    except msgspec.DecodeError:
        said = asked.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise NoEngine(f"no engine was chosen (exit code {asked.returncode}): {said}") from None
    if isinstance(answer, EngineRefusal):
        raise NoEngine(answer.why)
    return answer
