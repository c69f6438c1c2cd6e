"""What is found on a machine: files, servers and devices, in folders and on ports of the tests' own."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from infra.ports import free_port
from infra.settings import Settings, SettingsError, load_settings
from workers.engines import probe
from workers.engines.choice import Wanted

MODELS = json.dumps({"object": "list", "data": [{"id": "a"}, {"id": "b", "owned_by": "library"}]})
PATIENT_S = 20.0
"""For those that answer: what counts is what they say."""

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home with an empty working directory in it, and no variables of other programs."""
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def settings() -> Settings:
    return load_settings({"nats_url": "nats://127.0.0.1:1"})


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_ggufs_are_found_where_they_usually_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.find_ggufs(settings()) == []
    put(Path("here.gguf"))
    put(Path(".penstock/models/stored.gguf"))
    put(Path("deeper/not-looked-at.gguf"))
    cached = put(home / ".cache/llama.cpp/cached.gguf")
    hub = home / ".cache/huggingface/hub/models--org--name"
    blob, revision = put(hub / "blobs/1234"), hub / "snapshots/abc"
    revision.mkdir(parents=True)
    (revision / "hub.gguf").symlink_to(blob)
    (hub / "snapshots/def").mkdir()
    (hub / "snapshots/def/hub.gguf").symlink_to(blob)
    (revision / "broken.gguf").symlink_to(hub / "blobs/gone")
    put(revision / "Q4/large-00001-of-00002.gguf")
    put(revision / "Q4/large-00002-of-00002.gguf")
    for name in ("mmproj-model-f16.gguf", "ggml-vocab-bert.gguf", "README.md"):
        put(revision / name)
    large = str(revision / "Q4/large-00001-of-00002.gguf")
    expected = ["here.gguf", ".penstock/models/stored.gguf", str(cached), str(revision / "hub.gguf"), large]
    assert sorted(probe.find_ggufs(settings())) == sorted(expected)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "elsewhere"))
    monkeypatch.setenv("LLAMA_CACHE", str(home / "elsewhere"))
    assert probe.find_ggufs(settings()) == expected[:2]


def test_a_look_at_folders_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        put(home / f".cache/huggingface/hub/models--org--{number:02}/snapshots/abc/{number}.gguf")
    monkeypatch.setattr(probe, "ENTRIES_MAX", 40)
    assert len(probe.find_ggufs(settings())) < 20
    monkeypatch.setattr(probe, "ENTRIES_MAX", 1000)
    assert len(probe.find_ggufs(settings())) == 20
    monkeypatch.setattr(probe, "GGUFS_MAX", 3)
    assert len(probe.find_ggufs(settings())) == 3


@asynccontextmanager
async def listening(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, *, timeout_s: float = PATIENT_S
) -> AsyncIterator[int]:
    """A server on a free port, the only one that is looked for."""
    monkeypatch.setattr(probe, "PORT_TIMEOUT_S", timeout_s)
    ended: list[asyncio.Event] = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.Event())
        mine = ended[-1]
        with suppress(OSError):
            await answer(reader, writer)
            writer.close()
            await writer.wait_closed()
        mine.set()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    monkeypatch.setattr(probe, "SERVERS", {port: "Tests'"})
    async with server:
        yield port
        for event in ended:
            await event.wait()


def answers(body: str, status: str = "200 OK") -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /v1/models ")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n{body}".encode())

    return answer


async def test_a_server_is_named_with_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(answers(MODELS), monkeypatch) as port:
        (found,) = await probe.find_servers(own_port=0)
        assert (found.name, found.url, found.models) == ("Tests'", f"http://127.0.0.1:{port}/v1", ["a", "b"])
        assert await probe.find_servers(own_port=port) == [], "what listens on our own port is ourselves"


@pytest.mark.parametrize(
    "answer",
    [
        answers("<html>", "200 OK"),
        answers('{"data": 3}'),
        answers(MODELS, "401 Unauthorized"),
        answers('{"data": [{"id": "m", "owned_by": "penstock"}]}'),
        answers('{"data": []}' + " " * (probe.MODELS_BYTES_MAX + 1)),
    ],
    ids=["a web site", "another API", "not for us", "another penstock", "endless"],
)
async def test_other_things_that_listen_are_not_named(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(answer, monkeypatch):
        assert await probe.find_servers(own_port=0) == []


async def test_one_that_says_nothing_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    took_s = []
    async with listening(silent, monkeypatch, timeout_s=probe.PORT_TIMEOUT_S) as port:
        monkeypatch.setattr(probe, "SERVERS", dict.fromkeys([port, *(free_port() for _ in range(6))], "x"))
        for _ in range(5):
            started = time.monotonic()
            assert await probe.find_servers(own_port=0) == []
            took_s.append(time.monotonic() - started)
    assert min(took_s) < 1.0


def test_what_is_named_is_not_looked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_ggufs(_settings: Settings) -> list[str]:
        raise AssertionError("looked for models")

    async def find_servers(own_port: int) -> list[object]:
        raise AssertionError("asked local ports")

    monkeypatch.setattr(probe, "find_ggufs", find_ggufs)
    monkeypatch.setattr(probe, "find_servers", find_servers)
    for wanted in (
        Wanted("simulator"),
        Wanted("vllm", "org/m"),
        Wanted("llamacpp", "a.gguf"),
        Wanted("auto", "m", "http://127.0.0.1:1/v1"),
    ):
        probe.look(wanted, settings())
    with pytest.raises(AssertionError, match="asked local ports"):
        probe.look(Wanted("auto", "org/m"), settings())
    with pytest.raises(AssertionError, match="looked for models"):
        probe.look(Wanted("llamacpp"), settings())


def test_a_model_is_told_by_what_lies_under_its_name(home: Path) -> None:
    put(Path("org/whole/config.json"))
    put(Path("org/half/model.bin"))
    at = {
        name: probe.look(Wanted("vllm", name), settings()).at_model
        for name in ("org/whole", "org/half", "org/x")
    }
    assert at == {"org/whole": "model folder", "org/half": "folder", "org/x": ""}
    assert probe.look(Wanted("vllm", "org/half/model.bin"), settings()).at_model == "file"


def test_nothing_heavy_is_imported_to_see_what_is_installed(home: Path) -> None:
    before = set(sys.modules)
    probe.look(Wanted("vllm", "org/m"), settings())
    assert not {"torch", "vllm", "xllamacpp"} & (sys.modules.keys() - before)


@pytest.mark.parametrize(("visible", "count"), [(None, 3), ("0,2", 2), ("", 0), ("-1", 0), ("1,-1,2", 1)])
def test_cuda_devices_are_those_that_may_be_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        put(home / "dev" / name)
    monkeypatch.setattr(probe, "DEVICES", home / "dev")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert probe.count_gpus() == count


async def test_a_named_upstream_is_asked_for_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keys.append(b"authorization: bearer secret" in (await reader.readuntil(b"\r\n\r\n")).lower())
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{"data": [{"id": "m"}]}')

    async with listening(answer, monkeypatch) as port:
        asked = {"upstream": f"http://127.0.0.1:{port}/v1/", "upstream_api_key": "secret"}
        decided = await asyncio.to_thread(probe.decided, load_settings(asked))
    assert (decided.engine, decided.model, keys) == ("openai", "m", [True])


def test_an_upstream_that_is_not_there_is_no_reason_for_the_simulator(free_port: int) -> None:
    with pytest.raises(SettingsError, match=r"does not say what it serves .*--model"):
        probe.decided(load_settings({"upstream": f"http://127.0.0.1:{free_port}"}))


def test_a_choice_fills_in_what_was_open_and_nothing_else(home: Path) -> None:
    asked = load_settings({"engine": "simulator", "slots": 3})
    decided = probe.decided(asked)
    assert decided == asked.model_copy(update={"model": "penstock-sim"})
