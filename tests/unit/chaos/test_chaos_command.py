"""`python -m chaos.real`: what is read and written, and what its exit code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from chaos.real.__main__ import EXIT_FAILED, EXIT_VIOLATED, _kinds
from chaos.real.checker import CHECKS
from chaos.real.history import Asked, Fault, Line, Settled, encode, read
from chaos.real.judge import MEANINGS
from chaos.real.report import Report
from chaos.real.run import HISTORY, History
from chaos.real.shape import Shape
from tests.unit.chaos.chaos_history import AT, history

REPOSITORY = Path(__file__).parents[3]
UNANSWERED = Asked(AT + 1, 1, 1, "stream", "t", "standard", "http://door", msgspec.Raw(b"{}"))


def chaos(*words: str, module: str = "chaos.real") -> subprocess.CompletedProcess[str]:
    more = ["chaos"] if module == "infra.cli" else []
    command = [sys.executable, "-m", module, *more, *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def written(directory: Path, *lines: Line) -> Path:
    path = directory / HISTORY
    path.write_bytes(b"".join(encode(line) for line in lines))
    return path


@pytest.mark.parametrize("module", ["chaos.real", "infra.cli"])
def test_the_exit_code_tells_whether_a_promise_was_broken(tmp_path: Path, module: str) -> None:
    settled = Settled(AT + 9, 1.0, 0)
    good = chaos("check", str(written(tmp_path, history(10, faults=0)[0], settled)), module=module)
    assert (good.returncode, good.stdout) == (0, "0 broken promises\n")
    bad = chaos("check", str(written(tmp_path, UNANSWERED, settled)), module=module)
    assert bad.returncode == EXIT_VIOLATED
    assert "liveness: ask 1 was neither answered nor cut off" in bad.stdout


def test_a_run_that_was_cut_off_has_not_passed(tmp_path: Path) -> None:
    """Nobody saw what was lost or never came: a history that just ends breaks nothing."""
    for word, path in (("check", written(tmp_path, history(10, faults=0)[0])), ("report", tmp_path)):
        told = chaos(word, str(path))
        assert told.returncode == EXIT_VIOLATED, told.stdout
        assert "cut off" in told.stdout


def test_a_report_is_written_from_a_history_alone(tmp_path: Path) -> None:
    written(tmp_path, UNANSWERED, Settled(AT + 9, 1.0, 3))
    told = chaos("report", str(tmp_path))
    assert told.returncode == EXIT_VIOLATED, told.stderr
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report)
    assert not report.passed
    assert report.queued_in_the_end == 3
    assert len(report.violations) == 2
    assert "neither answered nor cut off" in (tmp_path / "report.html").read_text()
    assert "2 broken promises" in told.stdout


def test_without_a_history_there_is_nothing_to_report(tmp_path: Path) -> None:
    told = chaos("report", str(tmp_path))
    assert told.returncode == EXIT_FAILED
    assert told.stderr.startswith("chaos: ")
    assert "Traceback" not in told.stderr


def test_every_promise_that_is_checked_has_words() -> None:
    assert set(MEANINGS) == set(CHECKS)


def test_faults_are_chosen_by_parts_of_their_names() -> None:
    shape = Shape()
    assert _kinds("", shape) is None
    assert _kinds("kill,pause worker", shape) == [
        "kill worker",
        "kill scheduler",
        "kill edge",
        "kill broker",
        "pause worker",
    ]
    with pytest.raises(SystemExit, match="no fault here is called 'majority'"):
        _kinds("majority", shape)


def test_a_history_that_is_cut_off_tells_of_the_last_fault(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    writer = History(path)
    lines: list[Line] = [UNANSWERED, Fault(AT + 2, 1, "kill worker", "worker-1", "begin")]
    for line in lines:
        writer.tell(line)
    assert read(path) == lines, "before it is closed"
    writer.close()
