"""What a nemesis is: how it is drawn and what it touches, known before anything runs, and what it does then."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from chaos.real.shape import Shape
from chaos.real.system import Deployment

ALL = "all"
"""The target of what hits everybody."""

CLIENT_ROLES = ("edge", "scheduler", "worker")
"""Those that are clients of the brokers."""


@dataclass(frozen=True)
class Step:
    """One fault of a plan: from `at_s` after the beginning, for `duration_s`. `strength`, 0 to 1, is how hard."""

    id: int
    at_s: float
    kind: str
    target: str
    duration_s: float
    strength: float

    @property
    def until_s(self) -> float:
        """When it is over."""
        return self.at_s + self.duration_s


class Nemesis:
    """One step being done. `begin` may fail half-way: `end` takes back whatever it has done, and may be called twice.

    The class methods are pure: a plan is made of them before there is a system.
    """

    kind: ClassVar[str]
    duration_s: ClassVar[tuple[float, float]]

    def __init__(self, system: Deployment, step: Step) -> None:
        self.system = system
        self.step = step

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        """Whom it may hit in such a system; nobody: it has no place there."""
        raise NotImplementedError

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        """Whether nobody can be served meanwhile: such ones come one at a time, with time to recover between them."""
        return False

    @classmethod
    def choose(cls, rng: random.Random, shape: Shape) -> tuple[str, float, float]:
        """Target, duration in seconds and strength."""
        low, high = cls.duration_s
        # Most are short and some are long: on both sides of every time-out of ours.
        duration_s = low + (high - low) * rng.random() ** 2
        return rng.choice(cls.targets(shape)), round(duration_s, 3), round(rng.random(), 3)

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        """What no other may touch at the same time: processes by name, links by the name of whose they are."""
        return frozenset({target})

    @classmethod
    def disables(cls, target: str, shape: Shape) -> frozenset[str]:
        """Processes that cannot do their work meanwhile."""
        return frozenset({target})

    async def aim(self) -> str:
        """Finds out what is only known now; what the history should say of it."""
        return ""

    async def begin(self) -> None:
        """The fault is there when this returns."""
        raise NotImplementedError

    async def end(self) -> str:
        """The fault is gone when this returns; what the history should say of it."""
        raise NotImplementedError


def link_of(name: str) -> str:
    """How `touches` calls the links of a process."""
    return f"link of {name}"


def all_links(shape: Shape) -> frozenset[str]:
    """The links of every process that is not a broker."""
    return frozenset(link_of(name) for name in shape.names(*CLIENT_ROLES))
