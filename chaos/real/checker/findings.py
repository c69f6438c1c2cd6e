"""What checks find."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from chaos.real.checker.evidence import Evidence, Log, Name


class Problem(msgspec.Struct, frozen=True):
    """Something that must not be. `name` is the request it is about, where it is about one."""

    message: str
    name: Name | None = None


Check = Callable[[Evidence], Iterator[Problem | None]]
"""Looks at one thing after another: None says that it is right. Whoever looks at nothing has checked nothing."""

LogCheck = Callable[[Log], Iterator[str | None]]
"""The same for one log; what is wrong, in words."""


def each_log(check: LogCheck) -> Check:
    """Checks every log by itself."""

    def checks(evidence: Evidence) -> Iterator[Problem | None]:
        for log in evidence.logs.values():
            for wrong in check(log):
                yield None if wrong is None else Problem(wrong, log.name)

    return checks


class Violation(msgspec.Struct, frozen=True):
    """A broken invariant. `story` is what happened to the request, in time order, one line each."""

    invariant: str
    message: str
    tenant: str = ""
    rid: str = ""
    story: list[str] = []

    def __str__(self) -> str:
        head = f"{self.invariant}: {self.message}"
        return "\n".join([head, *[f"    {line}" for line in self.story]])
