"""Which engine runs: every branch of the decision, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from infra.engine_choice import EngineChoice, EngineRefusal
from workers.engines.choice import SAMPLE_ID, Decision, Facts, Server, Wanted, choose

GET_VLLM, GET_LLAMACPP = "pip install vllm", "pip install xllamacpp"
OLLAMA = Server("Ollama", "http://127.0.0.1:11434/v1", ["llama3.2", "qwen3"])
LM_STUDIO = Server("LM Studio", "http://127.0.0.1:1234/v1", ["Qwen/Qwen3-4B"])
EMPTY_SERVER = Server("Jan", "http://127.0.0.1:1337/v1", [])
URL = "http://127.0.0.1:9999/v1"


def decide(wanted: dict[str, str], facts: dict[str, Any]) -> Decision:
    return choose(Wanted(**wanted), Facts(install={"vllm": GET_VLLM, "llamacpp": GET_LLAMACPP}, **facts))


RUNS: list[tuple[dict[str, str], dict[str, Any], str, str, str]] = [
    # asked for, there is -> engine, model, said about it
    (
        {"engine": "simulator"},
        {"llamacpp": True, "ggufs": ["a.gguf"]},
        "simulator",
        "penstock-sim",
        "made-up words",
    ),
    ({"engine": "simulator", "model": "m"}, {}, "simulator", "m", "not a language model"),
    ({"engine": "vllm", "model": "m"}, {"vllm": "cuda", "gpus": 2}, "vllm", "m", "on 2 CUDA device(s)"),
    ({"engine": "vllm", "model": "m"}, {"vllm": "cpu"}, "vllm", "m", "on the CPU"),
    ({"engine": "vllm", "model": "m"}, {"vllm": "cuda"}, "vllm", "m", "no CUDA device"),
    (
        {"engine": "llamacpp", "model": "a.gguf"},
        {"llamacpp": True, "at_model": "file"},
        "llamacpp",
        "a.gguf",
        "",
    ),
    ({"engine": "llamacpp"}, {"llamacpp": True, "ggufs": ["a.gguf"]}, "llamacpp", "a.gguf", "the only GGUF"),
    ({"engine": "openai", "upstream": URL, "model": "m"}, {}, "openai", "m", URL),
    ({"engine": "openai", "upstream": URL}, {"upstream_models": ["m"]}, "openai", "m", "its only model"),
    ({"engine": "mine", "model": "m"}, {}, "mine", "m", "mine with m"),
    ({"upstream": URL, "model": "org/m"}, {"vllm": "cuda", "gpus": 1}, "openai", "org/m", URL),
    ({"upstream": "http://me:pw@a/v1", "model": "m"}, {}, "openai", "m", "http://***@a/v1"),
    ({"upstream": URL}, {"upstream_models": ["m"], "ggufs": ["a.gguf"], "llamacpp": True}, "openai", "m", ""),
    ({"model": "penstock-sim"}, {}, "simulator", "penstock-sim", "made-up words"),
    ({"model": "org/m"}, {"vllm": "cuda", "gpus": 1}, "vllm", "org/m", "on 1 CUDA device(s)"),
    ({"model": "org/m"}, {"vllm": "cpu"}, "vllm", "org/m", "on the CPU"),
    ({"model": "/m"}, {"vllm": "cuda", "gpus": 1, "at_model": "model folder"}, "vllm", "/m", ""),
    (
        {"model": "A.GGUF"},
        {"llamacpp": True, "at_model": "file"},
        "llamacpp",
        "A.GGUF",
        "llama.cpp with A.GGUF",
    ),
    (
        {"model": "o/a.gguf"},
        {"llamacpp": True, "at_model": "file", "vllm": "cpu"},
        "llamacpp",
        "o/a.gguf",
        "",
    ),
    ({}, {"llamacpp": True, "ggufs": ["a.gguf"], "servers": [OLLAMA]}, "llamacpp", "a.gguf", "the only GGUF"),
    ({}, {"vllm": "cuda", "gpus": 1, "llamacpp": True, "ggufs": ["a.gguf"]}, "llamacpp", "a.gguf", "only"),
]


@pytest.mark.parametrize(("wanted", "facts", "engine", "model", "said"), RUNS)
def test_what_runs(wanted: dict[str, str], facts: dict[str, Any], engine: str, model: str, said: str) -> None:
    decision = decide(wanted, facts)
    assert isinstance(decision, EngineChoice)
    assert (decision.engine, decision.model, decision.commands) == (engine, model, [])
    assert engine == "llamacpp" or decision.name == model
    assert said in decision.line


def test_clients_call_a_file_by_its_name() -> None:
    there = {"llamacpp": True, "at_model": "file"}
    for model in ("/a/b/qwen-q4.gguf", "qwen-q4-00001-of-00003.gguf"):
        decision = decide({"model": model}, there)
        assert isinstance(decision, EngineChoice)
        assert (decision.model, decision.name) == (model, "qwen-q4")


REFUSED: list[tuple[dict[str, str], dict[str, Any], list[str]]] = [
    ({"engine": "vllm", "model": "m"}, {}, ["vLLM", "not installed", GET_VLLM]),
    ({"engine": "vllm"}, {}, ["vLLM is not installed", GET_VLLM]),
    ({"engine": "vllm"}, {"vllm": "cuda", "gpus": 1}, ["--model"]),
    ({"engine": "llamacpp", "model": "a.gguf"}, {"at_model": "file"}, ["not installed", GET_LLAMACPP]),
    ({"engine": "llamacpp", "model": "a.gguf"}, {"llamacpp": True}, ["a.gguf: there is no such file"]),
    ({"engine": "llamacpp"}, {"ggufs": ["a.gguf"]}, ["not installed", GET_LLAMACPP]),
    ({"engine": "llamacpp"}, {"llamacpp": True}, ["no .gguf file was found", "--model"]),
    (
        {"engine": "llamacpp"},
        {"llamacpp": True, "ggufs": ["a b.gguf", "c.gguf"]},
        ["--model 'a b.gguf'", "c.gguf"],
    ),
    ({"engine": "openai"}, {}, ["--upstream URL"]),
    ({"engine": "openai", "model": "m"}, {"servers": [OLLAMA]}, ["--upstream URL", OLLAMA.url]),
    ({"engine": "openai", "upstream": URL}, {"upstream_error": "ConnectError"}, ["ConnectError", "--model"]),
    ({"engine": "openai", "upstream": URL}, {"upstream_models": []}, ["no model yet"]),
    ({"upstream": URL}, {"upstream_models": ["a", "b", "c", "d"]}, ["a, b, c and 1 more", "--model a"]),
    ({"engine": "mine"}, {}, ["--engine mine", "--model"]),
    ({"model": "org/m"}, {}, ["org/m", "not installed", GET_VLLM]),
    ({"model": "org/m"}, {"llamacpp": True}, ["org/m", "not installed", GET_VLLM]),
    ({"model": "Qwen/Qwen3-4B"}, {"servers": [OLLAMA, LM_STUDIO]}, [GET_VLLM, f"--upstream {LM_STUDIO.url}"]),
    ({"model": "org/m"}, {"vllm": "cuda"}, ["no CUDA device", "--engine vllm"]),
    ({"model": "/m"}, {"vllm": "cpu", "at_model": "folder"}, ["no config.json"]),
    ({"model": "a.bin"}, {"vllm": "cpu", "at_model": "file"}, ["not a .gguf file"]),
    ({"model": "a.gguf"}, {}, ["not installed", GET_LLAMACPP]),
    ({"model": "a.gguf"}, {"llamacpp": True}, ["no such file"]),
    ({"model": "qwen3"}, {"vllm": "cpu"}, ["qwen3", SAMPLE_ID]),
    ({"model": "qwen3"}, {"servers": [OLLAMA]}, [f"penstock up --upstream {OLLAMA.url} --model qwen3"]),
]


@pytest.mark.parametrize(("wanted", "facts", "said"), REFUSED)
def test_what_cannot_run_says_what_to_do(
    wanted: dict[str, str], facts: dict[str, Any], said: list[str]
) -> None:
    decision = decide(wanted, facts)
    assert isinstance(decision, EngineRefusal)
    assert [words for words in said if words not in decision.why] == []


UNDECIDED: list[tuple[dict[str, Any], str, list[str]]] = [
    # there is -> said about it, what to type
    (
        {"llamacpp": True, "ggufs": ["a b.gguf", "c.gguf"], "servers": [OLLAMA]},
        "several: a b.gguf, c.gguf",
        ["penstock up --model 'a b.gguf'"],
    ),
    (
        {"servers": [OLLAMA, EMPTY_SERVER, LM_STUDIO], "ggufs": ["a.gguf"]},
        f"Ollama at {OLLAMA.url} and LM Studio at {LM_STUDIO.url} would answer",
        [f"penstock up --upstream {OLLAMA.url} --model llama3.2", f"penstock up --upstream {LM_STUDIO.url}"],
    ),
    (
        {"ggufs": ["a.gguf"], "servers": [EMPTY_SERVER]},
        "not installed for a.gguf",
        [GET_LLAMACPP, "penstock up --model a.gguf"],
    ),
    ({"vllm": "cuda", "gpus": 1}, "no model is named", [f"penstock up --model {SAMPLE_ID}"]),
    ({"vllm": "cpu", "llamacpp": True}, "no model is named", [f"penstock up --model {SAMPLE_ID}"]),
]


@pytest.mark.parametrize(("facts", "said", "commands"), UNDECIDED)
def test_with_nothing_named_the_simulator_says_what_to_type(
    facts: dict[str, Any], said: str, commands: list[str]
) -> None:
    decision = decide({}, facts)
    assert isinstance(decision, EngineChoice)
    assert (decision.engine, decision.model) == ("simulator", "penstock-sim")
    assert "not a language model" in decision.line
    assert said in decision.line
    assert decision.commands == commands


@pytest.mark.parametrize("facts", [{}, {"vllm": "cuda"}, {"llamacpp": True}, {"gpus": 1}])
def test_with_nothing_at_all_it_names_a_model_to_fetch(facts: dict[str, Any]) -> None:
    decision = decide({}, facts)
    assert isinstance(decision, EngineChoice)
    assert decision.engine == "simulator"
    *install, fetch, start = decision.commands
    assert install == ([] if facts.get("llamacpp") else [GET_LLAMACPP])
    assert fetch.startswith("curl -LO https://")
    assert start == f"penstock up --model {fetch.rpartition('/')[2]}"


@pytest.mark.parametrize("there", [{}, {"llamacpp": True, "ggufs": ["a.gguf"], "servers": [OLLAMA]}])
@pytest.mark.parametrize("model", ["org/m", "m", "a.gguf", "/m"])
def test_the_simulator_never_answers_under_the_name_of_a_real_model(
    model: str, there: dict[str, Any]
) -> None:
    decision = decide({"model": model}, there)
    assert isinstance(decision, EngineRefusal)


def test_what_is_not_named_gets_nothing() -> None:
    for wanted, facts, engine, _, _ in RUNS:
        assert engine != "openai" or wanted.get("upstream"), (wanted, facts)
