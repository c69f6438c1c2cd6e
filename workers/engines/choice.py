"""Which engine and model to run: a pure function of what was asked for and of what there is.

What is named is never replaced by something else: it runs, or the answer says what is missing. What is left open is
taken from what there is, if that is unambiguous. Other servers are only named, since asking one is sending it prompts.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Literal

import msgspec

from infra.engine_choice import EngineChoice, EngineRefusal
from infra.settings import redact
from workers.engines.llamacpp_file import model_name

AUTO = "auto"
SIMULATED_MODEL = "penstock-sim"
NAMED_MAX = 3
"""Of several things found, so many are named."""

SAMPLE_GGUF = (
    "https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct-GGUF/resolve/main/qwen2.5-0.5b-instruct-q4_k_m.gguf"
)
SAMPLE_ID = "Qwen/Qwen2.5-1.5B-Instruct"
"""Small models that answer sensibly, under a free licence: what to type next where there is no model yet."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Wanted(msgspec.Struct, frozen=True):
    """The settings of these names: "auto" and empty texts are left open."""

    engine: str = AUTO
    model: str = ""
    upstream: str = ""


class Server(msgspec.Struct, frozen=True):
    """An OpenAI-compatible server that answers on this machine, `url` being what it has as an upstream. `name` is what
    usually listens on its port."""

    name: str
    url: str
    models: list[str]


class Facts(msgspec.Struct, frozen=True):
    """What there is. `vllm` is what its build runs on; `at_model` is what is found under the model's name as a path;
    `upstream_models` is None if it was not asked or did not answer, then `upstream_error` says why; `install` has the
    command that installs an engine, `penstock` the one that runs this program."""

    vllm: Literal["", "cuda", "cpu"] = ""
    llamacpp: bool = False
    gpus: int = 0
    at_model: Literal["", "file", "folder", "model folder"] = ""
    ggufs: list[str] = []
    servers: list[Server] = []
    upstream_models: list[str] | None = None
    upstream_error: str = ""
    install: dict[str, str] = {}
    penstock: str = "penstock"


Decision = EngineChoice | EngineRefusal


def choose(wanted: Wanted, facts: Facts) -> Decision:
    """What runs."""
    match wanted.engine:
        case "auto":
            return _open(wanted, facts)
        case "simulator":
            line = "the simulator: made-up words at a set pace, not a language model"
            return _runs("simulator", wanted.model or SIMULATED_MODEL, line)
        case "vllm":
            return _vllm(wanted.model, facts)
        case "llamacpp":
            return _llamacpp(wanted.model, facts) if wanted.model else _found_gguf(facts)
        case "openai":
            return _upstream(wanted, facts)
        case name if wanted.model:
            return _runs(name, wanted.model, f"{name} with {wanted.model}")
        case name:
            return EngineRefusal(f"--engine {name} needs a model: name it with --model")


def _open(wanted: Wanted, facts: Facts) -> Decision:
    if wanted.upstream:
        return _upstream(wanted, facts)
    if wanted.model:
        return _by_model(wanted.model, facts)
    if facts.llamacpp and len(facts.ggufs) == 1:
        return _found_gguf(facts)
    return _simulator(facts)


def _by_model(model: str, facts: Facts) -> Decision:
    if model == SIMULATED_MODEL:
        return choose(Wanted("simulator", model), facts)
    if model.lower().endswith(".gguf"):
        return _llamacpp(model, facts)
    if facts.at_model == "model folder" or (not facts.at_model and HUB_ID.fullmatch(model)):
        if facts.vllm == "cuda" and not facts.gpus:
            return EngineRefusal(
                f"vLLM is installed for CUDA and there is no CUDA device for {model}: "
                "take a .gguf file, which runs on the CPU, or insist with --engine vllm"
            )
        return _vllm(model, facts)
    if facts.at_model == "folder":
        return EngineRefusal(f"--model {model}: the folder has no config.json; or name a .gguf file in it")
    if facts.at_model == "file":
        return EngineRefusal(f"--model {model}: not a .gguf file, and vLLM takes the model's folder")
    return EngineRefusal(
        f"--model {model}: no file or folder of this name, and not an id such as {SAMPLE_ID}{_or_served(model, facts)}"
    )


def _vllm(model: str, facts: Facts) -> Decision:
    if not facts.vllm:
        return EngineRefusal(_missing("vllm", "vLLM", model, facts))
    if not model:
        return EngineRefusal(f"--engine vllm needs a model: --model {SAMPLE_ID}, or the folder of one")
    if facts.vllm == "cpu":
        where = "on the CPU"
    else:
        where = f"on {facts.gpus} CUDA device(s)" if facts.gpus else "though no CUDA device is in sight"
    return _runs("vllm", model, f"vLLM with {model} {where}")


def _llamacpp(model: str, facts: Facts) -> Decision:
    if not facts.llamacpp:
        return EngineRefusal(_missing("llamacpp", "llama.cpp", model, facts))
    if facts.at_model != "file":
        return EngineRefusal(f"--model {model}: there is no such file")
    return _runs("llamacpp", model, f"llama.cpp with {model}")


def _found_gguf(facts: Facts) -> Decision:
    if not facts.llamacpp:
        return EngineRefusal(_missing("llamacpp", "llama.cpp", "", facts))
    match facts.ggufs:
        case []:
            return EngineRefusal(
                "--engine llamacpp needs a model, and no .gguf file was found: --model FILE.gguf"
            )
        case [model]:
            return _runs("llamacpp", model, f"llama.cpp with {model}, the only GGUF found")
        case several:
            return EngineRefusal(
                f"--engine llamacpp needs one model of {_some(several)}: --model {shlex.quote(several[0])}"
            )


def _upstream(wanted: Wanted, facts: Facts) -> Decision:
    if not wanted.upstream:
        known = f", such as {facts.servers[0].url} ({facts.servers[0].name})" if facts.servers else ""
        return EngineRefusal(f"--engine openai needs a server: --upstream URL{known}")
    match (wanted.model, facts.upstream_models):
        case ("", None):
            return EngineRefusal(
                f"the upstream does not say what it serves ({facts.upstream_error}): start it, "
                "or name its model with --model"
            )
        case ("", []):
            return EngineRefusal("the upstream serves no model yet: load one there, or name one with --model")
        case ("", [model]):
            return _runs(
                "openai", model, f"the upstream {redact(wanted.upstream)} with {model}, its only model"
            )
        case ("", [*several]):
            return EngineRefusal(
                f"the upstream serves {_some(several)}: choose with --model {shlex.quote(several[0])}"
            )
        case _:
            return _runs(
                "openai", wanted.model, f"the upstream {redact(wanted.upstream)} with {wanted.model}"
            )


def _simulator(facts: Facts) -> EngineChoice:
    """Nothing is named, and nothing can be taken without a word of the user's."""
    up = f"{facts.penstock} up"
    install = [] if facts.llamacpp else [facts.install["llamacpp"]]
    serving = [server for server in facts.servers if server.models][:NAMED_MAX]
    if facts.llamacpp and facts.ggufs:
        why = f"no model is named and there are several: {_some(facts.ggufs)}"
        commands = [f"{up} --model {shlex.quote(facts.ggufs[0])}"]
    elif serving:
        answering = " and ".join(f"{server.name} at {server.url}" for server in serving)
        why = f"no model is named; {answering} would answer, and gets nothing unless you say so"
        commands = [_use(server, server.models, facts) for server in serving]
    elif facts.ggufs:
        why = f"llama.cpp is not installed for {_some(facts.ggufs)}"
        commands = [*install, f"{up} --model {shlex.quote(facts.ggufs[0])}"]
    elif (facts.vllm == "cuda" and facts.gpus) or facts.vllm == "cpu":
        why = "no model is named"
        commands = [f"{up} --model {SAMPLE_ID}"]
    else:
        why = "no model is named and none was found"
        commands = [*install, f"curl -LO {SAMPLE_GGUF}", f"{up} --model {SAMPLE_GGUF.rpartition('/')[2]}"]
    line = f"the simulator (made-up words, not a language model): {why}"
    return _runs("simulator", SIMULATED_MODEL, line, commands)


def _runs(engine: str, model: str, line: str, commands: list[str] | None = None) -> EngineChoice:
    name = model_name(Path(model)) if engine == "llamacpp" else model
    return EngineChoice(engine, model, name, line, commands or [])


def _missing(engine: str, title: str, model: str, facts: Facts) -> str:
    what = f"{title}, which {model} needs," if model else title
    no_device = (
        " (but it wants a CUDA device, and none is in sight)" if engine == "vllm" and not facts.gpus else ""
    )
    return f"{what} is not installed: {facts.install[engine]}{no_device}{_or_served(model, facts)}"


def _or_served(model: str, facts: Facts) -> str:
    """What there is to say about the servers that have the model already."""
    return "".join(
        f"; or use {server.name}'s: {_use(server, [model, *server.models], facts)}"
        for server in facts.servers[:NAMED_MAX]
        if model in server.models
    )


def _use(server: Server, models: list[str], facts: Facts) -> str:
    """The command that uses a server's first of these models; where it has no other, that need not be named."""
    named = f" --model {shlex.quote(models[0])}" if len(models) > 1 else ""
    return f"{facts.penstock} up --upstream {server.url}{named}"


def _some(things: list[str]) -> str:
    more = f" and {len(things) - NAMED_MAX} more" if len(things) > NAMED_MAX else ""
    return ", ".join(things[:NAMED_MAX]) + more
