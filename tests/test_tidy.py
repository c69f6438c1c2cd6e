"""The house rules that a program can check: layers, purity, sizes, names, words, links.

A rule that only lives in a document is forgotten; this one fails. Each test collects all offences before it fails.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT: dict[str, set[str]] = {
    "schemas": set(),
    "infra": {"schemas"},
    "edge": {"schemas", "infra"},
    "scheduler": {"schemas", "infra"},
    "workers": {"schemas", "infra"},
    "chaos": {"schemas", "infra", "edge", "scheduler", "workers"},
    "bench": {"schemas", "infra", "edge", "scheduler", "workers"},
}
SHIPPED = ["schemas", "infra", "edge", "scheduler", "workers"]

ONLY_IMPORTER = {
    "nats": ["infra/bus.py"],
    "vllm": [
        "workers/engines/vllm.py",
        "workers/engines/vllm_client.py",
        "workers/engines/vllm_prefix.py",
        "workers/engines/vllm_serving.py",
        "workers/engines/vllm_start.py",
    ],
    "xllamacpp": ["workers/engines/llamacpp.py", "workers/engines/llamacpp_params.py"],
}
READS_ENVIRONMENT = "infra/settings.py"
SUBJECTS = "schemas/subjects.py"

# Decisions live here: no I/O, no clock, no chance, so that thousands of simulated worlds can run them. In the scheduler
# and in the workers everything does, except their shells.
PURE = [
    "schemas/*",
    "infra/supervisor.py",
    "infra/trace_names.py",
    "infra/trace_tree.py",
    "infra/wire.py",
    "edge/access/addresses.py",
    "edge/access/keyring.py",
    "edge/admission.py",
    "edge/anthropic/*",
    "edge/compat/generate.py",
    "edge/compat/predict.py",
    "edge/compat/styles.py",
    "edge/compat/v1_generate.py",
    "edge/counts/core.py",
    "edge/counts/counter.py",
    "edge/counts/events.py",
    "edge/batches/jsonl.py",
    "edge/batches/listing.py",
    "edge/batches/records.py",
    "edge/batches/results.py",
    "edge/batches/tries.py",
    "edge/errors.py",
    "edge/forecast/*",
    "edge/idempotency.py",
    "edge/measures.py",
    "edge/recent.py",
    "edge/images_data.py",
    "edge/images_hosts.py",
    "edge/images_size.py",
    "edge/images_walk.py",
    "edge/openai_*.py",
    "edge/openapi/answers.py",
    "edge/openapi/document.py",
    "edge/openapi/failures.py",
    "edge/openapi/headers.py",
    "edge/openapi/probes.py",
    "edge/openapi/reasons.py",
    "edge/dialects.py",
    "edge/ends.py",
    "edge/pacer.py",
    "edge/pages.py",
    "edge/paths.py",
    "edge/position.py",
    "edge/readers.py",
    "edge/publishing.py",
    "edge/rates/window.py",
    "edge/registry.py",
    "edge/relay.py",
    "edge/responses/body.py",
    "edge/responses/described.py",
    "edge/responses/items.py",
    "edge/responses/listing.py",
    "edge/responses/output.py",
    "edge/responses/reading.py",
    "edge/responses/record.py",
    "edge/responses/shape.py",
    "edge/responses/translate.py",
    "edge/wishes.py",
    "scheduler/*",
    "workers/*",
    "chaos/broker/*",
    "chaos/real/checker/*",
    "chaos/real/clients_events.py",
]
SHELLS = [
    "edge/anthropic/endpoints.py",
    "edge/forecast/doorkeeper.py",
    "scheduler/__main__.py",
    "scheduler/broker_calls.py",
    "scheduler/counting.py",
    "scheduler/figures.py",
    "scheduler/leadership.py",
    "scheduler/quota_calls.py",
    "scheduler/service.py",
    "scheduler/traced.py",
    "scheduler/tracing.py",
    "workers/__main__.py",
    "workers/counting.py",
    "workers/engine_page.py",
    "workers/metrics.py",
    "workers/log_reads.py",
    "workers/service.py",
    "workers/tracing.py",
    "workers/engines/base.py",
    "workers/engines/diagnosis.py",
    "workers/engines/llamacpp.py",
    "workers/engines/llamacpp_file.py",
    "workers/engines/llamacpp_params.py",
    "workers/engines/probe.py",
    "workers/engines/registry.py",
    "workers/engines/simulator.py",
    "workers/engines/upstream.py",
    "workers/engines/vllm.py",
    "workers/engines/vllm_client.py",
    "workers/engines/vllm_prefix.py",
    "workers/engines/vllm_revision.py",
    "workers/engines/vllm_serving.py",
    "workers/engines/vllm_start.py",
    "workers/engines/vllm_tie.py",
    "chaos/broker/tcp.py",
]
BANNED_IN_PURE = {"asyncio", "logging", "nats", "os", "random", "secrets", "socket", "structlog", "time"}

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
VAGUE_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}
LEFTOVERS = re.compile(r"\b(FIX" + r"ME|TO" + r"DO|XX" + r"X)\b")
SUBJECT_WORDS = re.compile(r"^(llm\.v\d|\$(JS|KV|SRV|SYS)\.)")
MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def tracked() -> list[Path]:
    """The files of the project: what git knows or would add, or everything visible where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        paths = [ROOT / name for name in listed]
    except (OSError, subprocess.CalledProcessError):
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part[0] == "." for part in path.relative_to(ROOT).parts)
        ]
    return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


FILES = tracked()
MODULES = [path for path in FILES if path.suffix == ".py"]
SOURCES = [path for path in MODULES if path.relative_to(ROOT).parts[0] in MAY_IMPORT]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Each imported top-level name with its line, wherever in the file it is imported."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name_of(path).split("/")[0] if node.level else (node.module or "").split(".")[0]
            yield package, node.lineno


def strings_of(path: Path) -> Iterator[tuple[str, int]]:
    """String constants, text or bytes, that are not docstrings, with their lines."""
    tree = tree_of(path)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in bare:
            if isinstance(node.value, bytes):
                yield node.value.decode("latin-1"), node.lineno
            elif isinstance(node.value, str):
                yield node.value, node.lineno


def is_pure(path: Path) -> bool:
    name = name_of(path)
    return any(fnmatch.fnmatch(name, rule) for rule in PURE) and not any(
        fnmatch.fnmatch(name, rule) for rule in SHELLS
    )


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} >= set(SHIPPED)
    idle = [
        rule for rule in [*PURE, *SHELLS] if not any(fnmatch.fnmatch(name_of(path), rule) for path in SOURCES)
    ]
    assert not idle, "a rule that matches no file guards nothing"


def test_layers_and_siblings() -> None:
    offences = [
        f"{name_of(path)}:{line} imports {imported}"
        for path in SOURCES
        for imported, line in imports_of(path)
        if imported in {*MAY_IMPORT, "tests"}
        and imported not in {(own := path.relative_to(ROOT).parts[0]), *MAY_IMPORT[own]}
    ]
    assert not offences


def test_one_importer_for_each_foreign_world() -> None:
    offences = [
        f"{name_of(path)}:{line} imports {imported}"
        for path in SOURCES
        for imported, line in imports_of(path)
        if imported in ONLY_IMPORTER and name_of(path) not in ONLY_IMPORTER[imported]
    ]
    assert not offences


def test_only_settings_reads_the_environment() -> None:
    names = {"environ", "environb", "getenv"}
    offences = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if name_of(path) != READS_ENVIRONMENT
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names})
    ]
    assert not offences


def test_pure_modules_touch_no_world() -> None:
    offences = [
        f"{name_of(path)}:{line} imports {imported}"
        for path in SOURCES
        if is_pure(path)
        for imported, line in imports_of(path)
        if imported in BANNED_IN_PURE
    ]
    offences += [
        f"{name_of(path)}:{node.lineno} is async"
        for path in SOURCES
        if is_pure(path)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    ]
    assert not offences


def test_sizes() -> None:
    offences = []
    for path in MODULES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES_MAX:
            offences.append(f"{name_of(path)} has {lines} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    offences.append(f"{name_of(path)}:{node.lineno} {node.name} has {length} lines")
    assert not offences


def test_names_say_what_is_inside() -> None:
    offences = [name_of(path) for path in MODULES if VAGUE_NAMES & {path.stem, path.parent.name}]
    assert not offences


def test_packages_only_re_export() -> None:
    """`__init__.py`: a docstring, imports and `__all__`; importing a package does nothing."""
    offences = []
    for path in SOURCES:
        if path.name != "__init__.py":
            continue
        for index, node in enumerate(tree_of(path).body):
            is_docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_all = isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]
            if not (is_docstring or is_all or isinstance(node, ast.Import | ast.ImportFrom)):
                offences.append(f"{name_of(path)}:{node.lineno}")
    assert not offences


def test_tests_are_not_packages() -> None:
    assert not [
        name_of(path) for path in MODULES if path.name == "__init__.py" and name_of(path).startswith("tests/")
    ]


def test_modules_explain_themselves() -> None:
    offences = [name_of(path) for path in MODULES if not ast.get_docstring(tree_of(path))]
    assert not offences


def test_subjects_are_built_in_one_place() -> None:
    offences = [
        f"{name_of(path)}:{line} {text!r}"
        for path in SOURCES
        if name_of(path) != SUBJECTS
        for text, line in strings_of(path)
        if SUBJECT_WORDS.match(text)
    ]
    assert not offences


def test_nothing_is_left_for_later() -> None:
    offences = [
        f"{name_of(path)}:{number}"
        for path in FILES
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".sh"} or path.name in {"Makefile", "run"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if LEFTOVERS.search(line)
    ]
    assert not offences


def test_links_lead_somewhere() -> None:
    offences = []
    for path in FILES:
        if path.suffix != ".md":
            continue
        for target in MARKDOWN_LINK.findall(path.read_text(encoding="utf-8")):
            file = target.partition("#")[0]
            if "://" not in target and file and not (path.parent / file).exists():
                offences.append(f"{name_of(path)} -> {target}")
    assert not offences


def test_never_uploaded_and_explicit_about_its_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "Private :: Do Not Upload" in project["project"]["classifiers"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == SHIPPED


def pins_of(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-vllm.txt"])
def test_constraints_pin_versions_and_nothing_else(name: str) -> None:
    pins = pins_of(name)
    assert pins
    assert not [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line)]


def test_both_environments_have_the_same_versions() -> None:
    ours, vllms = (dict(pin.split("==") for pin in pins_of(f"constraints{x}.txt")) for x in ("", "-vllm"))
    assert {name for name in ours.keys() & vllms.keys() if ours[name] != vllms[name]} == {"numpy"}, (
        "only what vLLM itself holds back may differ"
    )


def test_our_package_names_are_ours_alone() -> None:
    """Generic names such as `scheduler` exist on PyPI, and an installer merges two packages without a word."""
    try:
        distribution("penstock")
    except PackageNotFoundError:
        pytest.skip("penstock is not installed here")
    owners = packages_distributions()
    # An editable install is a path entry and lists no packages: then nobody else may claim the names either.
    assert {name: set(owners.get(name, [])) - {"penstock"} for name in SHIPPED} == {
        name: set() for name in SHIPPED
    }
